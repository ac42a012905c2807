package api_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// member is one of an object; a tree has lists of them in the place of maps, so that one
// can be there twice.
type member struct {
	key   string
	value any
}

// raw is JSON, or what claims to be.
type raw string

// tree makes a document one that can be mutated.
func tree(value any) any {
	switch value := value.(type) {
	case map[string]any:
		members := []member{}
		for _, key := range slices.Sorted(maps.Keys(value)) {
			members = append(members, member{key, tree(value[key])})
		}
		return members
	case []any:
		all := make([]any, 0, len(value))
		for _, one := range value {
			all = append(all, tree(one))
		}
		return all
	}
	return value
}

// write makes text of a tree.
func write(out *bytes.Buffer, value any) {
	switch value := value.(type) {
	case []member:
		out.WriteByte('{')
		for i, m := range value {
			if i > 0 {
				out.WriteByte(',')
			}
			write(out, m.key)
			out.WriteByte(':')
			write(out, m.value)
		}
		out.WriteByte('}')
	case []any:
		out.WriteByte('[')
		for i, one := range value {
			if i > 0 {
				out.WriteByte(',')
			}
			write(out, one)
		}
		out.WriteByte(']')
	case raw:
		out.WriteString(string(value))
	default:
		text, err := json.Marshal(value)
		if err != nil {
			panic(err)
		}
		out.Write(text)
	}
}

// mutator makes bodies that nobody would send in good faith.
type mutator struct {
	*rand.Rand
	// tame keeps the types of values, so that what is behind the decoder is reached.
	tame bool
}

// body is a document with some mutations, as text.
func (m mutator) body(document any) []byte {
	m.tame = m.IntN(2) == 0
	root := any([]member{{"config", tree(document)}})
	if m.tame {
		root = tree(document)
	}
	for range 1 + m.IntN(3) {
		root = m.somewhere(root)
	}
	if m.tame {
		root = []member{{"config", root}}
	}
	var out bytes.Buffer
	write(&out, root)
	text := out.Bytes()
	if !m.tame && m.IntN(10) == 0 {
		text = m.bytes(text)
	}
	return text
}

// somewhere changes one place, chosen at random.
func (m mutator) somewhere(value any) any {
	if m.IntN(4) == 0 {
		return m.change(value)
	}
	switch value := value.(type) {
	case []member:
		if len(value) > 0 {
			i, all := m.IntN(len(value)), slices.Clone(value)
			all[i].value = m.somewhere(all[i].value)
			return all
		}
	case []any:
		if len(value) > 0 {
			i, all := m.IntN(len(value)), slices.Clone(value)
			all[i] = m.somewhere(all[i])
			return all
		}
	}
	return m.change(value)
}

// change makes something else of a value.
func (m mutator) change(value any) any {
	if !m.tame && m.IntN(3) == 0 {
		return m.junk()
	}
	switch value := value.(type) {
	case []member:
		if m.tame {
			return m.without(value)
		}
		return m.object(value)
	case []any:
		return m.list(value)
	case string:
		return m.text(value)
	case bool:
		return !value
	}
	if m.tame {
		return raw(pick(m, []string{"0", "-1", "1", "2", "22", "1280", "9000", "4094", "4095", "65535", "65536", "2147483647", "1000000"}))
	}
	return m.number()
}

// without is an object with one member less.
func (m mutator) without(value []member) any {
	if len(value) == 0 {
		return value
	}
	i := m.IntN(len(value))
	return slices.Delete(slices.Clone(value), i, i+1)
}

func (m mutator) object(value []member) any {
	all := slices.Clone(value)
	if len(all) == 0 || m.IntN(3) == 0 {
		return append(all, member{m.name(), m.junk()})
	}
	i := m.IntN(len(all))
	switch m.IntN(5) {
	case 0:
		return append(all, all[i]) // twice
	case 1:
		return append(all, member{all[i].key, m.junk()})
	case 2:
		return slices.Delete(all, i, i+1)
	case 3:
		all[i].key = m.name()
		return all
	}
	all[i].key = strings.ToUpper(all[i].key)
	return all
}

func (m mutator) list(value []any) any {
	if !m.tame && (len(value) == 0 || m.IntN(3) == 0) {
		return append(slices.Clone(value), m.junk())
	}
	switch m.IntN(4) {
	case 0:
		return append(slices.Clone(value), value...)
	case 1:
		return slices.Repeat(value, 1+m.IntN(300))
	case 2:
		return []any{}
	}
	if m.tame {
		reversed := slices.Clone(value)
		slices.Reverse(reversed)
		return reversed
	}
	return []any{value}
}

func (m mutator) text(value string) any {
	switch m.IntN(6) {
	case 0:
		return value + pick(m, strange)
	case 1:
		return pick(m, strange) + value
	case 2:
		return strings.Repeat(value+"x", 1+m.IntN(200))
	case 3:
		return value[:m.IntN(len(value)+1)]
	case 4:
		return pick(m, words)
	}
	return strings.ToUpper(value)
}

// strange are texts that break lines, quotes, files, encodings and limits.
var strange = []string{
	"\x00", "\n[Match]\nName=*", "\"", "\\", "'; rm -rf /", "../../etc/shadow", "%s%n", "$(reboot)", "{{.}}", "\u2028", "\u202e", "\ufeff", "ä", "\U0001F4A9",
	"\xff\xfe", "\r\n", "\t", " ", ",", "=", "#", "@", "/", ":", "-", "%eth0", "𝟙", "İ", "\u0000\u0001", strings.Repeat("A", 70000), strings.Repeat("é", 5000),
}

// words are values that mean something somewhere.
var words = []string{
	"dhcp4", "dhcp6", "slaac", "0.0.0.0/0", "::/0", "fe80::1%lo", "127.0.0.1", "255.255.255.255/32", "::ffff:1.2.3.4/128", "02:00:00:00:00:01", "ff:ff:ff:ff:ff:ff",
	"enp1s0", "lan", "uplink", "_vlan", "lo", "both", "no", "secureon", "0", "-1", "1GiB", "99999999TiB", "1e9GiB", "NaNGiB", "0000:03:00.0", "nvme", "tty0", "tls", "udp", "[::1]:0",
	"(kept secret)", "never", "1ns", "-5m", "Sunday", "http://[::1", "https://a:b@c/%zz", "null", "*", "|", "direct", "none",
}

func (m mutator) name() string {
	return pick(m, []string{"", "config", "state", "name", "interfaces", "Interfaces", "wireguard", "private_key", "server_url", "kernel", "services", "network", "__proto__", "a.b", "\x00", strings.Repeat("k", 3000), "ключ", "x\ny"})
}

func (m mutator) number() any {
	return raw(pick(m, []string{"0", "-0", "-1", "1", "65535", "65536", "2147483648", "-2147483649", "9223372036854775807", "9223372036854775808", "-9223372036854775809", "1e3", "1e308", "1e400", "-1e400", "0.5", "1.0", "1e-400", strings.Repeat("9", 400), "4094", "4095", "7680", "1000000"}))
}

// junk is any value.
func (m mutator) junk() any {
	switch m.IntN(12) {
	case 0:
		return nil
	case 1:
		return true
	case 2:
		return m.number()
	case 3:
		return pick(m, strange)
	case 4:
		return pick(m, words)
	case 5:
		return []any{}
	case 6:
		return []member{}
	case 7:
		return []any{m.junk(), m.junk()}
	case 8:
		return []member{{m.name(), m.junk()}}
	case 9:
		return m.deep()
	case 10:
		return raw(pick(m, []string{`"\ud800"`, `"\udc00\ud800"`, `"\u0000"`, "\"\xff\xfe\"", "nul", "NaN", "Infinity", "01", "+1", "1.", ".5", "'a'", "/**/1", "\"a\nb\"", "[1,]", "{}{}", "\x00"}))
	}
	return strings.Repeat(pick(m, words), 1+m.IntN(3000))
}

// deep is nested more than anybody needs.
func (m mutator) deep() any {
	levels := []int{5, 30, 33, 200, 11000}[m.IntN(5)]
	if m.IntN(2) == 0 {
		return raw(strings.Repeat("[", levels) + strings.Repeat("]", levels))
	}
	return raw(strings.Repeat(`{"a":`, levels) + "1" + strings.Repeat("}", levels))
}

// bytes changes text without looking at what it means.
func (m mutator) bytes(text []byte) []byte {
	text = slices.Clone(text)
	switch at := m.IntN(len(text)); m.IntN(4) {
	case 0:
		return text[:at]
	case 1:
		text[at] = byte(m.IntN(256))
	case 2:
		return slices.Insert(text, at, []byte(pick(m, strange))...)
	default:
		return slices.Concat(text, text[at:])
	}
	return text
}

func pick[T any](m mutator, from []T) T { return from[m.IntN(len(from))] }
