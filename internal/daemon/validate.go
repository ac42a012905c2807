package daemon

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

var channelForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// maxWindows is how many maintenance windows a configuration may have.
const maxWindows = 64

// checkUpdateConfig fills the defaults in and gives every problem, each with its path.
func checkUpdateConfig(c *osapi.UpdateConfig) []string {
	defaults := defaultUpdate()
	if c.Channel == "" {
		c.Channel = defaults.Channel
	}
	if c.CheckFrequency == "" {
		c.CheckFrequency = defaults.CheckFrequency
	}
	var problems []string
	if !channelForm.MatchString(c.Channel) {
		problems = append(problems, fmt.Sprintf("config.channel: %q is not the name of a channel, as \"stable\"", c.Channel))
	}
	if text := checkFrequency(c.CheckFrequency); text != "" {
		problems = append(problems, "config.check_frequency: "+text)
	}
	if len(c.MaintenanceWindows) > maxWindows {
		return append(problems, fmt.Sprintf("config.maintenance_windows: %d are more than %d", len(c.MaintenanceWindows), maxWindows))
	}
	for i, window := range c.MaintenanceWindows {
		for _, text := range checkWindow(window) {
			problems = append(problems, fmt.Sprintf("config.maintenance_windows[%d]%s", i, text))
		}
	}
	return problems
}

func checkFrequency(text string) string {
	if text == "never" {
		return ""
	}
	every, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return fmt.Sprintf("%q is neither \"never\" nor a duration, as \"6h\" or \"90m\"", text)
	case every < 0:
		return fmt.Sprintf("%q is negative", text)
	}
	return ""
}

func checkWindow(w osapi.MaintenanceWindow) []string {
	var problems []string
	for _, day := range []struct{ path, value string }{
		{".start_day_of_week", w.StartDayOfWeek}, {".end_day_of_week", w.EndDayOfWeek},
	} {
		if day.value != "" && !slices.Contains(weekdays(), day.value) {
			problems = append(problems, fmt.Sprintf("%s: %q is none of %s", day.path, day.value, strings.Join(weekdays(), ", ")))
		}
	}
	for _, part := range []struct {
		path       string
		value, max int
	}{
		{".start_hour", w.StartHour, 23}, {".start_minute", w.StartMinute, 59},
		{".end_hour", w.EndHour, 23}, {".end_minute", w.EndMinute, 59},
	} {
		if part.value < 0 || part.value > part.max {
			problems = append(problems, fmt.Sprintf("%s: %d is not between 0 and %d", part.path, part.value, part.max))
		}
	}
	if (w.StartDayOfWeek == "") != (w.EndDayOfWeek == "") {
		problems = append(problems, ": start_day_of_week and end_day_of_week go together: set both or none")
	}
	start, end := w.StartHour*60+w.StartMinute, w.EndHour*60+w.EndMinute
	if w.StartDayOfWeek != "" && w.StartDayOfWeek == w.EndDayOfWeek && end < start {
		problems = append(problems, fmt.Sprintf(": it ends %02d:%02d before it starts %02d:%02d on the same day",
			w.EndHour, w.EndMinute, w.StartHour, w.StartMinute))
	}
	return problems
}

func weekdays() []string {
	days := make([]string, 7)
	for i := range days {
		days[i] = time.Weekday(i).String()
	}
	return days
}
