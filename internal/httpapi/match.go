package httpapi

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
)

// resource is one path of the table with its routes by method.
type resource struct {
	path     string
	segments []string
	methods  map[string]*Route
	// change is held while the resource is changed, so that If-Match holds.
	change sync.Mutex
}

// resources turns the table into paths, those without variables first.
func resources(routes []Route) ([]*resource, error) {
	byPath := map[string]*resource{}
	var fixed, variable []*resource
	for i := range routes {
		route := &routes[i]
		if err := route.check(); err != nil {
			return nil, err
		}
		r := byPath[route.Path]
		if r == nil {
			r = &resource{path: route.Path, segments: segments(route.Path), methods: map[string]*Route{}}
			byPath[route.Path] = r
			if strings.Contains(route.Path, "{") {
				variable = append(variable, r)
			} else {
				fixed = append(fixed, r)
			}
		}
		if r.methods[route.Method] != nil {
			return nil, fmt.Errorf("route %s %s is in the table twice", route.Method, route.Path)
		}
		r.methods[route.Method] = route
	}
	return append(fixed, variable...), nil
}

func (r *Route) check() error {
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodPut && r.Method != http.MethodPost && r.Method != http.MethodDelete:
		return fmt.Errorf("route %s %s: the method must be GET, PUT, POST or DELETE", r.Method, r.Path)
	case !strings.HasPrefix(r.Path, "/"):
		return fmt.Errorf("route %s %s: the path must begin with a slash", r.Method, r.Path)
	case r.Doc == "":
		return fmt.Errorf("route %s %s has no documentation", r.Method, r.Path)
	case (r.Handler == nil) == (r.Later == ""):
		return fmt.Errorf("route %s %s needs either a handler or a reason why it comes later", r.Method, r.Path)
	}
	return nil
}

func segments(path string) []string {
	return strings.Split(strings.TrimPrefix(path, "/"), "/")
}

// find gives the resource for an escaped path and the values of its variables.
func find(all []*resource, escaped string) (*resource, map[string]string) {
	given := segments(escaped)
	for i, segment := range given {
		text, err := url.PathUnescape(segment)
		if err != nil {
			return nil, nil
		}
		given[i] = text
	}
	for _, r := range all {
		if vars, ok := r.match(given); ok {
			return r, vars
		}
	}
	return nil, nil
}

func (res *resource) match(given []string) (map[string]string, bool) {
	if len(given) != len(res.segments) {
		return nil, false
	}
	vars := map[string]string{}
	for i, segment := range res.segments {
		if !strings.HasPrefix(segment, "{") {
			if segment != given[i] {
				return nil, false
			}
			continue
		}
		if given[i] == "" || strings.HasPrefix(given[i], ":") {
			return nil, false
		}
		vars[strings.Trim(segment, "{}")] = given[i]
	}
	return vars, true
}
