package os

// Service is /1.0/services/{name} of any service; the types of its two halves go by the
// name, as ServiceISCSI.
type Service struct {
	// Config is what the owner asked for; it always has "enabled".
	Config any `json:"config" yaml:"config"`
	// State is what the node observes; it is ignored in a request.
	State any `json:"state" yaml:"state"`
}

// ServiceISCSI is /1.0/services/iscsi.
type ServiceISCSI struct {
	// Config is what the owner asked for.
	Config ServiceISCSIConfig `json:"config" yaml:"config"`
	// State is what the node observes; it is ignored in a request.
	State ServiceISCSIState `json:"state" yaml:"state"`
}

// ServiceISCSIConfig connects the node to disks over iSCSI.
type ServiceISCSIConfig struct {
	// Enabled runs the initiator; default false. Incus' storage driver "truenas" needs it,
	// and then no targets: it logs in by itself.
	Enabled bool `json:"enabled" yaml:"enabled"`
	// Targets are logged in to, each once; default none.
	Targets []ServiceISCSITarget `json:"targets" yaml:"targets"`
}

// ServiceISCSITarget is one target at one address.
type ServiceISCSITarget struct {
	// Target is the target's name, as "iqn.2003-01.org.example:disk1"; also "eui." and
	// "naa." names.
	Target string `json:"target" yaml:"target"`
	// Address is the portal's IP address or host name.
	Address string `json:"address" yaml:"address"`
	// Port is the portal's TCP port, 1 to 65535; default 3260.
	Port int `json:"port" yaml:"port"`
}

// ServiceISCSIState is what the node observes of iSCSI.
type ServiceISCSIState struct {
	// InitiatorName is the node's own name, which a target may ask for.
	InitiatorName string `json:"initiator_name" yaml:"initiator_name"`
	// Sessions are the present logins, those that Incus made among them.
	Sessions []ServiceISCSISession `json:"sessions,omitempty" yaml:"sessions,omitempty"`
}

// ServiceISCSISession is one login to a target.
type ServiceISCSISession struct {
	// Target is the target's name.
	Target string `json:"target" yaml:"target"`
	// Address is the portal's address as it was logged in to.
	Address string `json:"address" yaml:"address"`
	// Port is the portal's TCP port.
	Port int `json:"port" yaml:"port"`
	// State is the kernel's word: "LOGGED_IN", "FAILED" while the connection is being
	// made anew, or "FREE".
	State string `json:"state" yaml:"state"`
}

// ServiceLVM is /1.0/services/lvm.
type ServiceLVM struct {
	// Config is what the owner asked for.
	Config ServiceLVMConfig `json:"config" yaml:"config"`
	// State is what the node observes; it is ignored in a request.
	State ServiceLVMState `json:"state" yaml:"state"`
}

// ServiceLVMConfig lets several nodes use the same volume groups.
type ServiceLVMConfig struct {
	// Enabled runs the lock manager; default false.
	Enabled bool `json:"enabled" yaml:"enabled"`
	// SystemID is the node's own number among those that share, 1 to 2000.
	SystemID int `json:"system_id" yaml:"system_id"`
}

// ServiceLVMState is what the tools of LVM report.
type ServiceLVMState struct {
	// PVs are the physical volumes.
	PVs []ServiceLVMPV `json:"pvs,omitempty" yaml:"pvs,omitempty"`
	// VGs are the volume groups.
	VGs []ServiceLVMVG `json:"vgs,omitempty" yaml:"vgs,omitempty"`
	// Log are the messages of the report, warnings and errors among them.
	Log []ServiceLVMLog `json:"log,omitempty" yaml:"log,omitempty"`
}

// ServiceLVMPV is one physical volume, in the words of pvs(8).
type ServiceLVMPV struct {
	// PVName is the device.
	PVName string `json:"pv_name" yaml:"pv_name"`
	// VGName is the volume group that it belongs to; empty for none.
	VGName string `json:"vg_name" yaml:"vg_name"`
	// PVFmt is the format, as "lvm2".
	PVFmt string `json:"pv_fmt" yaml:"pv_fmt"`
	// PVAttr are the attributes, as "a--".
	PVAttr string `json:"pv_attr" yaml:"pv_attr"`
	// PVSize is the size with its unit, as "10.00g".
	PVSize string `json:"pv_size" yaml:"pv_size"`
	// PVFree is the free space with its unit.
	PVFree string `json:"pv_free" yaml:"pv_free"`
}

// ServiceLVMVG is one volume group, in the words of vgs(8).
type ServiceLVMVG struct {
	// VGName is what the group is called in its own metadata.
	VGName string `json:"vg_name" yaml:"vg_name"`
	// PVCount is how many physical volumes it has, as a text.
	PVCount string `json:"pv_count" yaml:"pv_count"`
	// LVCount is how many logical volumes it has, as a text.
	LVCount string `json:"lv_count" yaml:"lv_count"`
	// SnapCount is how many snapshots it has, as a text.
	SnapCount string `json:"snap_count" yaml:"snap_count"`
	// VGAttr are the attributes, as "wz--ns".
	VGAttr string `json:"vg_attr" yaml:"vg_attr"`
	// VGSize is the size with its unit.
	VGSize string `json:"vg_size" yaml:"vg_size"`
	// VGFree is the free space with its unit.
	VGFree string `json:"vg_free" yaml:"vg_free"`
}

// ServiceLVMLog is one message of LVM's report, in the words of lvmreport(7).
type ServiceLVMLog struct {
	// LogSeqNum is the number of the message, as a text.
	LogSeqNum string `json:"log_seq_num" yaml:"log_seq_num"`
	// LogType is "status", "warn", "error" or "print".
	LogType string `json:"log_type" yaml:"log_type"`
	// LogContext is what was being done, as "processing".
	LogContext string `json:"log_context" yaml:"log_context"`
	// LogObjectType is "pv", "vg", "lv" or "cmd".
	LogObjectType string `json:"log_object_type" yaml:"log_object_type"`
	// LogObjectName says which object it is about, as "vg0".
	LogObjectName string `json:"log_object_name" yaml:"log_object_name"`
	// LogObjectID is the object's UUID.
	LogObjectID string `json:"log_object_id" yaml:"log_object_id"`
	// LogObjectGroup is the name of the object's volume group.
	LogObjectGroup string `json:"log_object_group" yaml:"log_object_group"`
	// LogObjectGroupID is the UUID of that volume group.
	LogObjectGroupID string `json:"log_object_group_id" yaml:"log_object_group_id"`
	// LogMessage is what LVM has to say, in English.
	LogMessage string `json:"log_message" yaml:"log_message"`
	// LogErrno is the number of the error, as a text; "0" for none.
	LogErrno string `json:"log_errno" yaml:"log_errno"`
	// LogRetCode is the return code, as a text; "1" for success.
	LogRetCode string `json:"log_ret_code" yaml:"log_ret_code"`
}

// ServiceDisabled is the configuration of a service that this release does not have.
type ServiceDisabled struct {
	// Enabled is always false.
	Enabled bool `json:"enabled" yaml:"enabled"`
}

// ServiceNoState is the state of a service that has none.
type ServiceNoState struct{}
