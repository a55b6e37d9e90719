package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/pflag"
)

// DefaultFile is read if it exists and no other file is named.
const DefaultFile = "/etc/imds-bridge/config.yaml"

const (
	fileFlag     = "config"
	fileVariable = EnvironmentPrefix + "CONFIG"
)

// Bind adds to flags one for each setting, and --config, which names the file.
func Bind(flags *pflag.FlagSet) {
	flags.String(fileFlag, DefaultFile, "configuration `file`")
	c := Default()
	list, _ := settings(&c)
	for _, s := range list {
		doc := s.doc
		if len(s.allowed) > 0 {
			doc += " One of " + strings.Join(s.allowed, ", ") + "."
		}
		flags.Var(&flagValue{s.String(), s.kind()}, s.path, doc)
	}
}

// flagValue keeps the text of a flag until Load can report it along with all other problems.
type flagValue struct{ text, kind string }

func (v *flagValue) String() string        { return v.text }
func (v *flagValue) Set(text string) error { v.text = text; return nil }
func (v *flagValue) Type() string          { return v.kind }

// Load returns the defaults, changed by the file, then by the variables in environ (in the form of
// os.Environ), then by the flags that were given. The file is that of --config, else that of
// IMDS_BRIDGE_CONFIG, else DefaultFile if there is one. flags may be nil.
//
// The error joins every problem found, those of Validate among them, a line each.
func Load(environ []string, flags *pflag.FlagSet) (Config, error) {
	return load(DefaultFile, environ, flags)
}

func load(defaultFile string, environ []string, flags *pflag.FlagSet) (Config, error) {
	c := Default()
	c.from = make(map[string]string)
	l := &loader{config: &c, settings: index(&c)}
	l.readFile(defaultFile, environ, flags)
	l.readEnvironment(environ)
	l.readFlags(flags)
	if err := c.Validate(); err != nil {
		l.problems = append(l.problems, err)
	}
	return c, errors.Join(l.problems...)
}

// loader gathers settings and problems from all sources.
type loader struct {
	config   *Config
	settings map[string]setting
	problems []error
}

// set takes a value from a source, which is what an operator has to look at to change it.
func (l *loader) set(s setting, text, source string) {
	if err := s.set(text); err != nil {
		l.problem(source, "%s %q %v", s.path, text, err)
		return
	}
	l.config.from[s.path] = source
}

func (l *loader) problem(source, format string, args ...any) {
	l.problems = append(l.problems, fmt.Errorf("%s: %w", source, fmt.Errorf(format, args...)))
}

func (l *loader) readFile(name string, environ []string, flags *pflag.FlagSet) {
	source := ""
	for _, v := range environ {
		if value, ok := strings.CutPrefix(v, fileVariable+"="); ok && value != "" {
			name, source = value, fileVariable
		}
	}
	if flags != nil && flags.Changed(fileFlag) {
		name, source = flags.Lookup(fileFlag).Value.String(), "--"+fileFlag
	}
	data, err := os.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && source == "":
	case err != nil && source == "":
		l.problems = append(l.problems, err)
	case err != nil:
		l.problem(source, "%w", err)
	default:
		l.parse(name, data)
	}
}

// serviceLink matches the variables that Kubernetes makes up for every Service in a pod's
// namespace, which collide with ours if one is named imds-bridge or imds-bridge-something.
var serviceLink = regexp.MustCompile(`^IMDS_BRIDGE(_.+)?(_SERVICE_(HOST|PORT)(_.+)?|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

func (l *loader) readEnvironment(environ []string) {
	known := map[string]setting{fileVariable: {}}
	for _, s := range l.settings {
		known[s.environment()] = s
	}
	for _, v := range environ {
		name, text, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, EnvironmentPrefix) || name == fileVariable {
			continue
		}
		if s, ok := known[name]; ok {
			l.set(s, text, name)
		} else if !serviceLink.MatchString(name) {
			l.problem(name, "unknown variable%s", didYouMean(name, known))
		}
	}
}

func (l *loader) readFlags(flags *pflag.FlagSet) {
	if flags == nil {
		return
	}
	flags.Visit(func(f *pflag.Flag) {
		if s, ok := l.settings[f.Name]; ok {
			l.set(s, f.Value.String(), "--"+f.Name)
		}
	})
}
