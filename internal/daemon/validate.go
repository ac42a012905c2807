package daemon

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
)

var channelForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// maxWindows is how many maintenance windows a configuration may have.
const maxWindows = 64

// checkUpdateConfig fills the defaults in and gives every problem, each with its path.
func checkUpdateConfig(c *osapi.UpdateConfig) config.Problems {
	defaults := defaultUpdate()
	if c.Channel == "" {
		c.Channel = defaults.Channel
	}
	if c.CheckFrequency == "" {
		c.CheckFrequency = defaults.CheckFrequency
	}
	var problems config.Problems
	if !channelForm.MatchString(c.Channel) {
		problems.Add("channel", "name", "%q is not the name of a channel, as \"stable\"", c.Channel)
	}
	if text := checkFrequency(c.CheckFrequency); text != "" {
		problems.Add("check_frequency", "duration", "%s", text)
	}
	if len(c.MaintenanceWindows) > maxWindows {
		problems.Add("maintenance_windows", "limit", "%d are more than %d", len(c.MaintenanceWindows), maxWindows)
		return problems
	}
	for i, window := range c.MaintenanceWindows {
		checkWindow(&problems, fmt.Sprintf("maintenance_windows[%d]", i), window)
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

func checkWindow(problems *config.Problems, at string, w osapi.MaintenanceWindow) {
	for _, day := range []struct{ path, value string }{
		{".start_day_of_week", w.StartDayOfWeek}, {".end_day_of_week", w.EndDayOfWeek},
	} {
		if day.value != "" && !slices.Contains(weekdays(), day.value) {
			problems.Add(at+day.path, "day", "%q is none of %s", day.value, strings.Join(weekdays(), ", "))
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
			problems.Add(at+part.path, "range", "%d is not between 0 and %d", part.value, part.max)
		}
	}
	if (w.StartDayOfWeek == "") != (w.EndDayOfWeek == "") {
		problems.Add(at, "days", "start_day_of_week and end_day_of_week go together: set both or none")
	}
	start, end := w.StartHour*60+w.StartMinute, w.EndHour*60+w.EndMinute
	if w.StartDayOfWeek != "" && w.StartDayOfWeek == w.EndDayOfWeek && end < start {
		problems.Add(at, "order", "it ends %02d:%02d before it starts %02d:%02d on the same day",
			w.EndHour, w.EndMinute, w.StartHour, w.StartMinute)
	}
}

func weekdays() []string {
	days := make([]string, 7)
	for i := range days {
		days[i] = time.Weekday(i).String()
	}
	return days
}
