package os

import "time"

// Update is /1.0/system/update.
type Update struct {
	// Config is what the owner asked for.
	Config UpdateConfig `json:"config" yaml:"config"`
	// State is what the node observes; it is not read from a request.
	State UpdateState `json:"state" yaml:"state"`
}

// UpdateConfig is also the seed named "update".
type UpdateConfig struct {
	// AutoReboot restarts the node by itself after an update of the OS; default false.
	AutoReboot bool `json:"auto_reboot" yaml:"auto_reboot"`
	// Channel is the release channel followed; default "stable".
	Channel string `json:"channel" yaml:"channel"`
	// CheckFrequency is a Go duration, or "never"; default "6h".
	CheckFrequency string `json:"check_frequency" yaml:"check_frequency"`
	// MaintenanceWindows limit when updates are applied; default always.
	MaintenanceWindows []MaintenanceWindow `json:"maintenance_windows,omitempty" yaml:"maintenance_windows,omitempty"`
}

// MaintenanceWindow is a daily or weekly span in the node's time zone, both ends included.
type MaintenanceWindow struct {
	// StartDayOfWeek is "Sunday" to "Saturday", or empty for every day.
	StartDayOfWeek string `json:"start_day_of_week,omitempty" yaml:"start_day_of_week,omitempty"`
	// StartHour is 0 to 23.
	StartHour int `json:"start_hour" yaml:"start_hour"`
	// StartMinute is 0 to 59.
	StartMinute int `json:"start_minute" yaml:"start_minute"`
	// EndDayOfWeek is "Sunday" to "Saturday"; it is given when StartDayOfWeek is, and only then.
	EndDayOfWeek string `json:"end_day_of_week,omitempty" yaml:"end_day_of_week,omitempty"`
	// EndHour is 0 to 23.
	EndHour int `json:"end_hour" yaml:"end_hour"`
	// EndMinute is 0 to 59; this minute still belongs to the window.
	EndMinute int `json:"end_minute" yaml:"end_minute"`
}

// UpdateState is what the update agent last did.
type UpdateState struct {
	// LastCheck is when the node last looked for updates; year 1 before the first time since its
	// start.
	LastCheck time.Time `json:"last_check" yaml:"last_check"`
	// Status says in words how the last check went, for a person; its wording may change.
	Status string `json:"status" yaml:"status"`
	// NeedsReboot is true when a newer release is on disk and runs after a restart.
	NeedsReboot bool `json:"needs_reboot" yaml:"needs_reboot"`
}

// UpdateCheckPost is the body of POST /1.0/system/update/:check; it may be empty.
type UpdateCheckPost struct {
	// OSOnly leaves the applications alone; default false.
	OSOnly bool `json:"os_only" yaml:"os_only"`
}
