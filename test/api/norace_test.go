//go:build !race

package api_test

// slow is how much longer things may take.
const slow = 1
