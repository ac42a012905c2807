package seed

import (
	"net/url"
	"reflect"
	"slices"
	"strings"
)

// Wipe takes every secret out of the documents and says where they stood, as
// "network.proxy.servers.a.password", sorted. What is sealed is removed as well. It works
// on the set itself, and leaves what was shared with it as it was.
//
// Which field is a secret is said by the tag `secret` of its type: "true" for all of it,
// "except=a,b" for a map of which only a and b are none. What Incus alone understands has
// no types of ours: there a value goes by the name of its field (see secretName), and
// everywhere a private key and an address with a login are secrets.
func (s *Set) Wipe() []string {
	w := &wiper{}
	for _, slot := range s.slots() {
		if !slot.field.IsNil() {
			slot.field.Set(w.clean(slot.field, "", slot.name))
		}
	}
	for _, m := range s.Sealed {
		w.found = append(w.found, m.Name)
	}
	s.Sealed = nil
	slices.Sort(w.found)
	return slices.Compact(w.found)
}

type wiper struct{ found []string }

// clean gives a copy of a value without its secrets.
func (w *wiper) clean(v reflect.Value, tag, at string) reflect.Value {
	if tag == "true" {
		if !v.IsZero() {
			w.found = append(w.found, at)
		}
		return reflect.Zero(v.Type())
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return w.cleanBehind(v, tag, at)
	case reflect.Struct:
		out := reflect.New(v.Type()).Elem()
		for i := range v.NumField() {
			f := v.Type().Field(i)
			below := at
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
				below += "." + name
			}
			out.Field(i).Set(w.clean(v.Field(i), f.Tag.Get("secret"), below))
		}
		return out
	case reflect.Slice:
		return w.cleanList(v, at)
	case reflect.Map:
		return w.cleanMap(v, tag, at)
	case reflect.String:
		if holdsSecret(v.String()) {
			w.found = append(w.found, at)
			return reflect.Zero(v.Type())
		}
	}
	return v
}

// cleanBehind is clean for what a pointer or an interface leads to.
func (w *wiper) cleanBehind(v reflect.Value, tag, at string) reflect.Value {
	if v.IsNil() {
		return v
	}
	inner := w.clean(v.Elem(), tag, at)
	if v.Kind() == reflect.Interface {
		return inner
	}
	out := reflect.New(v.Type().Elem())
	out.Elem().Set(inner)
	return out
}

// cleanList leaves out an entry that is nothing but a secret.
func (w *wiper) cleanList(v reflect.Value, at string) reflect.Value {
	if v.IsNil() {
		return v
	}
	out := reflect.MakeSlice(v.Type(), 0, v.Len())
	for i := range v.Len() {
		entry := w.clean(v.Index(i), "", at)
		if isEmpty(v.Index(i)) || !isEmpty(entry) {
			out = reflect.Append(out, entry)
		}
	}
	return out
}

// cleanMap leaves out the entries that are secret.
func (w *wiper) cleanMap(v reflect.Value, tag, at string) reflect.Value {
	if v.IsNil() {
		return v
	}
	allowed, onlyAllowed := strings.CutPrefix(tag, "except=")
	foreign := v.Type().Elem().Kind() == reflect.Interface
	out := reflect.MakeMap(v.Type())
	for each := v.MapRange(); each.Next(); {
		name := each.Key().String()
		below := at + "." + name
		if onlyAllowed && !slices.Contains(strings.Split(allowed, ","), name) || foreign && secretName(name) {
			w.found = append(w.found, below)
			continue
		}
		value := w.clean(each.Value(), "", below)
		if isEmpty(each.Value()) || !isEmpty(value) {
			out.SetMapIndex(each.Key(), value)
		}
	}
	return out
}

func isEmpty(v reflect.Value) bool {
	for v.Kind() == reflect.Interface && !v.IsNil() {
		v = v.Elem()
	}
	return !v.IsValid() || v.IsZero()
}

// secretWords in the name of a field of Incus make a secret of its value: passwords of
// storage clusters and BGP peers, keys of LINSTOR and OVN, tokens of clusters, and what is
// handed into instances by cloud-init or as environment.
var secretWords = []string{"password", "passphrase", "secret", "token", "key", "credential", "user-data", "vendor-data", "environment"}

func secretName(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc(secretWords, func(word string) bool { return strings.Contains(name, word) })
}

// holdsSecret finds private keys, and addresses with a login, where none belong.
func holdsSecret(text string) bool {
	if strings.Contains(text, "PRIVATE KEY-----") || strings.Contains(text, "AGE-SECRET-KEY-") {
		return true
	}
	if !strings.Contains(text, "@") || !strings.Contains(text, "://") {
		return false
	}
	for word := range strings.FieldsSeq(text) {
		address, err := url.Parse(word)
		if err != nil {
			// What cannot be taken apart and has both signs is not worth the risk.
			return true
		}
		if address.User != nil {
			return true
		}
	}
	return false
}
