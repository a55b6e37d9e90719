package handover

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// State is what one bridge leaves to the next.
type State struct {
	Version string              // of the bridge that leaves it
	Terms   Terms               // under which the files are of use
	Files   map[string]*os.File // by names that both bridges know
}

// Close closes the files.
func (s State) Close() error {
	var errs []error
	for _, f := range s.Files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// names are in an order that does not change from call to call.
func (s State) names() []string { return slices.Sorted(maps.Keys(s.Files)) }

// Terms are what two bridges must agree about to share files: values by the name of the setting, or
// of whatever else they are.
type Terms map[string]string

// ErrTerms is returned by [Terms.Agree] for terms that differ.
var ErrTerms = errors.New("terms differ")

// Agree compares the terms of this bridge with those under which the files of another are of use. The
// error names every difference.
func (t Terms) Agree(left Terms) error {
	var differences []string
	names := maps.Clone(t)
	maps.Copy(names, left)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if t[name] != left[name] {
			differences = append(differences, fmt.Sprintf("%s is %s here and %s there", name, orNone(t[name]), orNone(left[name])))
		}
	}
	if len(differences) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrTerms, strings.Join(differences, "; "))
}

func orNone(value string) string {
	if value == "" {
		return "none"
	}
	return value
}
