package main

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/internal/httpapi"
)

// reference is the whole API, ready to be written down.
type reference struct {
	operations []operation
	shaper     *shaper
}

// operation is one route with its types.
type operation struct {
	httpapi.Route
	id       string
	resource string
	vars     []string
	body     *shape
	answer   *shape
	// async is true for an answer that names an operation: 202.
	async bool
	codes []int
}

// newReference reads the types of a table of routes. The table's order is kept.
func newReference(routes []httpapi.Route, s *source) (*reference, error) {
	ref := &reference{shaper: newShaper(s)}
	ids := map[string]string{}
	for _, route := range routes {
		op := operation{Route: route, id: operationID(route.Method, route.Path), resource: resourceOf(route.Path),
			vars: pathVars(route.Path), codes: errorCodes(route)}
		where := route.Method + " " + route.Path
		if other := ids[op.id]; other != "" {
			return nil, fmt.Errorf("%s and %s have one operationId: %s", other, where, op.id)
		}
		ids[op.id] = where
		var err error
		if route.Request != nil {
			if op.body, err = ref.shaper.value(route.Request); err != nil {
				return nil, fmt.Errorf("%s: the request: %w", where, err)
			}
		}
		if route.Later == "" {
			if route.Response == nil && route.Method == http.MethodGet {
				ref.shaper.problems = append(ref.shaper.problems, problem{"the table of routes", where + " names no type of its answer: set Response"})
			}
			var response any
			response, op.async = answerOf(route.Response)
			if op.answer, err = ref.shaper.value(response); err != nil {
				return nil, fmt.Errorf("%s: the response: %w", where, err)
			}
		}
		ref.operations = append(ref.operations, op)
	}
	ref.requestsAreNotNull()
	return ref, nil
}

// answerOf gives the metadata of an answer in one of httpapi's forms.
func answerOf(response any) (metadata any, async bool) {
	switch r := response.(type) {
	case httpapi.Async:
		return r.Answer, true
	case httpapi.Tagged:
		return r.Answer, false
	case httpapi.After:
		return r.Answer, false
	}
	return response, false
}

// requestsAreNotNull takes null away from the types that only bodies have: there it
// means that the field is missing.
func (ref *reference) requestsAreNotNull() {
	answered := map[string]bool{}
	for _, op := range ref.operations {
		if op.answer != nil {
			op.answer.walk(answered, func(*shape) {})
		}
	}
	for _, op := range ref.operations {
		if op.body == nil {
			continue
		}
		op.body.walk(map[string]bool{}, func(s *shape) {
			if answered[s.name] {
				return
			}
			for _, f := range s.fields {
				f.shape.nullable = false
			}
		})
	}
}

// walk calls visit for each named type below, once.
func (s *shape) walk(seen map[string]bool, visit func(*shape)) {
	if s.elem != nil {
		s.elem.walk(seen, visit)
	}
	if s.name != "" {
		if seen[s.name] {
			return
		}
		seen[s.name] = true
		visit(s)
	}
	for _, f := range s.fields {
		f.shape.walk(seen, visit)
	}
}

// operationID makes a name out of method and path: getSystemUpdate, postSystemReboot.
func operationID(method, path string) string {
	id := strings.ToLower(method)
	rest := strings.TrimPrefix(path, "/1.0")
	switch {
	case path == "/":
		return id + "Versions"
	case rest == "":
		return id + "Server"
	}
	for _, word := range strings.FieldsFunc(rest, func(r rune) bool { return strings.ContainsRune("/:{}-._", r) }) {
		id += title(word)
	}
	return id
}

// resourceOf names the page of a path: root, applications, system-network, internal.
func resourceOf(path string) string {
	var parts []string
	for part := range strings.SplitSeq(strings.Trim(strings.TrimPrefix(path, "/1.0"), "/"), "/") {
		if part == "" || strings.ContainsAny(part, ":{") {
			break
		}
		parts = append(parts, part)
	}
	switch {
	case len(parts) == 0 || strings.Contains(parts[0], "."):
		return "root"
	case parts[0] == "system" && len(parts) > 1:
		return "system-" + parts[1]
	}
	return parts[0]
}

func pathVars(path string) []string {
	var found []string
	for part := range strings.SplitSeq(path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			found = append(found, strings.TrimSuffix(name, "}"))
		}
	}
	return found
}

// errorCodes says which errors a route can answer, as far as the table tells:
//
//   - 400 with a body, parameters, or a change; 413 with a body
//   - 403 on the socket alone
//   - 404 for a path with a name in it
//   - 409 and 501 for a change: something else goes on, or it is not possible yet
//   - 412 for a PUT, which may have If-Match
//   - 500 always, and 503 while the node starts
//   - 501 alone for what comes later
func errorCodes(r httpapi.Route) []int {
	var codes []int
	add := func(when bool, all ...int) {
		if when {
			codes = append(codes, all...)
		}
	}
	add(r.Access == httpapi.SocketOnly || strings.HasPrefix(r.Path, "/internal/"), http.StatusForbidden)
	if r.Later != "" {
		return append(codes, http.StatusNotImplemented)
	}
	change := r.Method != http.MethodGet
	add(change || r.Request != nil || len(r.Query) > 0, http.StatusBadRequest)
	add(strings.Contains(r.Path, "{"), http.StatusNotFound)
	add(change, http.StatusConflict, http.StatusNotImplemented)
	add(r.Method == http.MethodPut, http.StatusPreconditionFailed)
	add(r.Request != nil, http.StatusRequestEntityTooLarge)
	add(true, http.StatusInternalServerError)
	add(r.Path != "/", http.StatusServiceUnavailable)
	slices.Sort(codes)
	return codes
}

// errorText is what each code means to a caller.
var errorText = map[int]string{
	http.StatusBadRequest:            "The request is wrong. The text says where and what would be right.",
	http.StatusForbidden:             "This path can only be called on the node's own socket.",
	http.StatusNotFound:              "There is no such thing.",
	http.StatusConflict:              "It is there already, or another change is going on.",
	http.StatusPreconditionFailed:    "The resource has changed since it was read: read it again.",
	http.StatusRequestEntityTooLarge: "The body is too large.",
	http.StatusInternalServerError:   "The node could not do it. The text and the log say why.",
	http.StatusNotImplemented:        "This release cannot do it.",
	http.StatusServiceUnavailable:    "Not now: the node is starting. Ask again.",
}

// resources gives the names of the pages in order, root first.
func (ref *reference) resources() []string {
	var names []string
	for _, op := range ref.operations {
		if !slices.Contains(names, op.resource) {
			names = append(names, op.resource)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		if a == "root" || b == "root" {
			return cmp.Compare(b2i(a != "root"), b2i(b != "root"))
		}
		return cmp.Compare(a, b)
	})
	return names
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (ref *reference) of(resource string) []operation {
	var found []operation
	for _, op := range ref.operations {
		if op.resource == resource {
			found = append(found, op)
		}
	}
	return found
}
