package os

// Provider is /1.0/system/provider.
type Provider struct {
	// Config is what the owner asked for.
	Config ProviderConfig `json:"config" yaml:"config"`
	// State is what the node observes; it is not read from a request.
	State ProviderState `json:"state" yaml:"state"`
}

// ProviderConfig says where releases come from. It is also the seed named "provider".
type ProviderConfig struct {
	// Name is "images", a release tree, or "operations-center", a manager of many nodes.
	Name string `json:"name" yaml:"name"`
	// Config are the provider's own settings. For "images": server_url, the base URL of a
	// release tree; mirrors, more base URLs of the same tree, separated by spaces; metadata,
	// by which the tree is trusted: "tuf", its trusted metadata, or "index", the signed index
	// alone that servers of IncusOS have, default "index" where update_ca is given, else
	// "tuf"; update_root, the root document for "tuf" as JSON, default the image's own;
	// update_ca, the PEM certificate that must have signed the index; bandwidth_limit, bytes a
	// second for downloads, default without limit; token, which lets the node register with a
	// server that asks who its nodes are, a secret, and authentication_by_query_param, "true"
	// for a server that headers do not reach, default "false". For "operations-center":
	// server_url, the manager's base URL, https; server_token, which lets the node register, a
	// secret; server_certificate, the PEM certificate that the manager must show, default one
	// that the node trusts. A secret is shown as "(kept secret)", and sent back so it stays.
	Config map[string]string `json:"config,omitempty" yaml:"config,omitempty" secret:"except=server_url,mirrors,metadata,update_root,update_ca,bandwidth_limit,authentication_by_query_param,server_certificate"`
}

// ProviderState is what the node knows of its provider.
type ProviderState struct {
	// Registered is true once the node has made itself known to its provider; always false for
	// "images" without a token, which needs none.
	Registered bool `json:"registered" yaml:"registered"`
	// Server is the manager that the node belongs to, as its URL, or "local" for one on the
	// node itself; empty for none.
	Server string `json:"server,omitempty" yaml:"server,omitempty"`
	// Warnings are what an owner should know of the provider, each a sentence, as that a
	// manager still lists a node that has left it; empty when all is well.
	Warnings []string `json:"warnings,omitempty" yaml:"warnings,omitempty"`
}
