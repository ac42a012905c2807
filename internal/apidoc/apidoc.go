// Package apidoc has the description of the node's REST API that the node itself serves
// at /1.0/openapi.yaml. tools/apidoc writes it, out of the daemon's table of routes and
// the types of api/; docs/reference/openapi.yaml is the same text, and `apidoc -check`
// fails when one of the two is not fresh.
package apidoc

import _ "embed" // for the description

// OpenAPI is the description, an OpenAPI 3.1 document in YAML.
//
//go:embed openapi.yaml
var OpenAPI string
