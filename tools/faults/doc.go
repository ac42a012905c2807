// Package faults has the test that keeps docs/reference/faults.md true: each fault that an
// update has to survive names the tests that show it, and each of these tests exists. It has
// no program.
package faults
