// Package owner says whose a caller is, by rules over what is known of it.
package owner

import (
	"fmt"
	"slices"
	"strings"

	"github.com/imds-bridge/imds-bridge/caller/container"
)

// Facts are what is known of a caller. What is not is left zero.
type Facts struct {
	Container  *container.Container
	Unit       string // of systemd
	Executable string
	Script     string
	User       string
	Package    string            // that the executable belongs to
	Env        map[string]string // those of the caller's variables that rules name
	Tags       map[string]string // of the instance
}

// Owner is whose a caller is.
type Owner struct {
	Name string
	// From is the rule that found it, with what the rule looked at where that is not in the rule:
	// pod.label:team, file: unit nightly-report.
	From string
}

// Rule is one place to look: a source, and for some the key in it.
type Rule struct{ Source, Key string }

func (r Rule) String() string {
	if r.Key == "" {
		return r.Source
	}
	return r.Source + ":" + r.Key
}

// lookup is how a source finds a name; "" for none.
type lookup func(key string, f *Facts) string

// keyed are the sources that need a key, and plain those that take none.
var (
	keyed = map[string]lookup{
		"pod.label":       func(key string, f *Facts) string { return pod(f).Labels[key] },
		"pod.annotation":  func(key string, f *Facts) string { return pod(f).Annotations[key] },
		"container.label": func(key string, f *Facts) string { return of(f).Labels[key] },
		"env":             func(key string, f *Facts) string { return f.Env[key] },
		"instance.tag":    func(key string, f *Facts) string { return f.Tags[key] },
	}
	plain = map[string]lookup{
		"pod.namespace":       func(_ string, f *Facts) string { return pod(f).Namespace },
		"pod.service_account": func(_ string, f *Facts) string { return pod(f).ServiceAccount },
		"pod.workload":        func(_ string, f *Facts) string { return pod(f).Workload.Name },
		"container.name":      func(_ string, f *Facts) string { return of(f).Name },
		"container.image":     func(_ string, f *Facts) string { return of(f).Image.Name },
		"ecs.service":         func(_ string, f *Facts) string { return task(f).Service },
		"ecs.family":          func(_ string, f *Facts) string { return task(f).Family },
		"unit":                func(_ string, f *Facts) string { return f.Unit },
		"package":             func(_ string, f *Facts) string { return f.Package },
		"user":                func(_ string, f *Facts) string { return f.User },
	}
)

// file is the source that asks the mapping file.
const file = "file"

func of(f *Facts) container.Container {
	if f.Container == nil {
		return container.Container{}
	}
	return *f.Container
}

func pod(f *Facts) container.Pod {
	if c := of(f); c.Pod != nil {
		return *c.Pod
	}
	return container.Pod{}
}

func task(f *Facts) container.Task {
	if c := of(f); c.Task != nil {
		return *c.Task
	}
	return container.Task{}
}

// ParseRules reads rules as they are written in the configuration: source[:key], apart by spaces.
func ParseRules(text string) ([]Rule, error) {
	var rules []Rule
	for word := range strings.FieldsSeq(text) {
		source, key, hasKey := strings.Cut(word, ":")
		switch {
		case keyed[source] != nil && key == "":
			return nil, fmt.Errorf("%s needs a key: %s:<name>", word, source)
		case keyed[source] == nil && plain[source] == nil && source != file:
			return nil, fmt.Errorf("no source %q: there are %s", source, strings.Join(sources(), ", "))
		case keyed[source] == nil && hasKey:
			return nil, fmt.Errorf("%s takes no key", source)
		}
		rules = append(rules, Rule{source, key})
	}
	return rules, nil
}

func sources() []string {
	names := []string{file}
	for name := range plain {
		names = append(names, name)
	}
	for name := range keyed {
		names = append(names, name+":<name>")
	}
	slices.Sort(names)
	return names
}

// Variables are the names of the environment variables that rules look at.
func Variables(rules []Rule) (names []string) { return keysOf(rules, "env") }

// Tags are the names of the instance's tags that rules look at.
func Tags(rules []Rule) (names []string) { return keysOf(rules, "instance.tag") }

func keysOf(rules []Rule, source string) (keys []string) {
	for _, r := range rules {
		if r.Source == source && !slices.Contains(keys, r.Key) {
			keys = append(keys, r.Key)
		}
	}
	return keys
}

// Find asks the rules in their order; the first that knows a name wins. The mapping may be nil.
func Find(rules []Rule, m *Mapping, f *Facts) Owner {
	for _, r := range rules {
		if r.Source == file {
			if name, why := m.find(f); name != "" {
				return Owner{name, file + ": " + why}
			}
			continue
		}
		find := keyed[r.Source]
		if find == nil {
			find = plain[r.Source]
		}
		if name := find(r.Key, f); name != "" {
			return Owner{name, r.String()}
		}
	}
	return Owner{}
}
