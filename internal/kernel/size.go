package kernel

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// units are the units of a size; a number alone counts bytes.
var units = map[string]int64{
	"": 1, "B": 1,
	"kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
	"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}

var errSize = errors.New(`a size is a whole number with a unit, as "8GiB" or "512MiB"; "0" is none`)

// ParseSize reads a size as "8GiB" and gives bytes. The units are B, kB, MB, GB, TB of
// thousands and KiB, MiB, GiB, TiB of 1024; a number alone counts bytes.
func ParseSize(text string) (int64, error) {
	digits := strings.TrimRight(text, "BKMGTPEkmgtpei ")
	factor, ok := units[strings.TrimSpace(text[len(digits):])]
	if !ok || digits == "" || len(digits) > 19 || strings.Trim(digits, "0123456789") != "" {
		return 0, errSize
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > math.MaxInt64/factor {
		return 0, errSize
	}
	return n * factor, nil
}

// showSize writes a number of bytes for a person, in MiB or GiB.
func showSize(n int64) string {
	if n >= 1<<30 {
		return strconv.FormatFloat(float64(n)/(1<<30), 'f', 1, 64) + " GiB"
	}
	return strconv.FormatInt(n>>20, 10) + " MiB"
}
