package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// EnvironmentPrefix begins every environment variable of the bridge.
const EnvironmentPrefix = "IMDS_BRIDGE_"

// setting is one key of a Config.
type setting struct {
	path    string // like redirect.listen; the flag is --path
	doc     string
	allowed []string
	value   any // points into the Config
}

// section is a key that holds others.
type section struct{ path, doc string }

// settings lists the keys of c in the order of its fields.
func settings(c *Config) (list []setting, sections []section) {
	var walk func(v reflect.Value, prefix string)
	walk = func(v reflect.Value, prefix string) {
		for i := range v.NumField() {
			field := v.Type().Field(i)
			path := prefix + field.Tag.Get("yaml")
			switch {
			case !field.IsExported():
			case isSection(field.Type):
				sections = append(sections, section{path, field.Tag.Get("doc")})
				walk(v.Field(i), path+".")
			default:
				list = append(list, setting{
					path:    path,
					doc:     field.Tag.Get("doc"),
					allowed: strings.Fields(field.Tag.Get("allowed")),
					value:   v.Field(i).Addr().Interface(),
				})
			}
		}
	}
	walk(reflect.ValueOf(c).Elem(), "")
	return list, sections
}

func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t != reflect.TypeFor[netip.AddrPort]()
}

// index returns the settings of c by path.
func index(c *Config) map[string]setting {
	list, _ := settings(c)
	m := make(map[string]setting, len(list))
	for _, s := range list {
		m[s.path] = s
	}
	return m
}

// environment is the name of the variable for the setting.
func (s setting) environment() string {
	return EnvironmentPrefix + strings.ToUpper(strings.ReplaceAll(s.path, ".", "_"))
}

// set reads the value from its text form. An error says what the text must be, and leaves the
// value as it was.
func (s setting) set(text string) error {
	if len(s.allowed) > 0 && !slices.Contains(s.allowed, text) {
		return errors.New("must be " + anyOf(s.allowed))
	}
	switch p := s.value.(type) {
	case *string:
		*p = text
	case *int:
		return assign(p, text, strconv.Atoi, "a whole number")
	case *bool:
		return assign(p, text, strconv.ParseBool, "true or false")
	case *Mark:
		return assign(p, text, parseMark, "a number of 32 bits, like 0x2069")
	case *time.Duration:
		return assign(p, text, time.ParseDuration, "a duration with a unit, like 900ms or 5s")
	case *netip.AddrPort:
		return assign(p, text, parseAddrPort, "an address and a port, like 127.0.0.1:8254 or [::1]:8254")
	case *slog.Level:
		return p.UnmarshalText([]byte(text))
	default:
		return fmt.Errorf("is of a type that cannot be set, %T", p)
	}
	return nil
}

func assign[T any](p *T, text string, parse func(string) (T, error), want string) error {
	v, err := parse(text)
	if err != nil {
		return errors.New("must be " + want)
	}
	*p = v
	return nil
}

func parseMark(text string) (Mark, error) {
	n, err := strconv.ParseUint(text, 0, 32)
	return Mark(n), err
}

// parseAddrPort takes nothing for no address.
func parseAddrPort(text string) (netip.AddrPort, error) {
	if text == "" {
		return netip.AddrPort{}, nil
	}
	return netip.ParseAddrPort(text)
}

// String is the value's text form, as set reads it.
func (s setting) String() string {
	switch p := s.value.(type) {
	case *string:
		return *p
	case *int:
		return strconv.Itoa(*p)
	case *bool:
		return strconv.FormatBool(*p)
	case *time.Duration:
		return shortDuration(*p)
	case *netip.AddrPort:
		if !p.IsValid() {
			return ""
		}
		return p.String()
	case *slog.Level:
		return strings.ToLower(p.String())
	default:
		return fmt.Sprint(reflect.ValueOf(p).Elem())
	}
}

// kind names the value's type in the help of its flag.
func (s setting) kind() string {
	switch s.value.(type) {
	case *int, *Mark:
		return "number"
	case *bool:
		return "bool"
	case *time.Duration:
		return "duration"
	case *netip.AddrPort:
		return "address"
	default:
		return "string"
	}
}

// shortDuration writes 5m for what Go writes as 5m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// anyOf writes "a, b or c".
func anyOf(list []string) string {
	last := len(list) - 1
	return strings.Join(list[:last], ", ") + " or " + list[last]
}
