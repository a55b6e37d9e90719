package owner

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// maxMapping bounds a mapping file.
const maxMapping = 8 << 20

// maxName bounds the name of an owner.
const maxName = 128

// Mapping says who owns what, from a file that an operator keeps.
type Mapping struct {
	// Entries are the lines of a table, or the Components of a catalog that have an owner. There is one at least.
	Entries int
	// Ownerless are the Components of a catalog that were passed over, since they name no owner.
	Ownerless int

	lines []mapped
}

// mapped is one line: what a fact has to be like, and whose that is.
type mapped struct{ fact, pattern, owner string }

// facts are what a mapping may look at, by the word that names each in a file.
var facts = map[string]func(*Facts) []string{
	"executable":      func(f *Facts) []string { return []string{f.Executable} },
	"script":          func(f *Facts) []string { return []string{f.Script} },
	"unit":            func(f *Facts) []string { return []string{f.Unit, strings.TrimSuffix(f.Unit, ".service")} },
	"user":            func(f *Facts) []string { return []string{f.User} },
	"package":         func(f *Facts) []string { return []string{f.Package} },
	"container":       func(f *Facts) []string { return []string{of(f).Name, pod(f).Container, task(f).Container} },
	"image":           func(f *Facts) []string { return []string{of(f).Image.Name} },
	"namespace":       func(f *Facts) []string { return []string{pod(f).Namespace} },
	"workload":        func(f *Facts) []string { return []string{pod(f).Workload.Name} },
	"service_account": func(f *Facts) []string { return []string{pod(f).ServiceAccount} },
	"ecs_service":     func(f *Facts) []string { return []string{task(f).Service} },
	"ecs_family":      func(f *Facts) []string { return []string{task(f).Family} },
	"service":         services,
}

// ServiceVariables are those of OpenTelemetry and Datadog that name a service.
var ServiceVariables = []string{"OTEL_SERVICE_NAME", "DD_SERVICE"}

// Service is the name by which a caller's service goes; "" if it has none.
func Service(f *Facts) string {
	for _, name := range services(f) {
		if name != "" {
			return name
		}
	}
	return ""
}

// services are the names by which a caller's service goes, those that its maker chose first.
func services(f *Facts) []string {
	labels := pod(f).Labels
	return []string{
		pod(f).Annotations["backstage.io/kubernetes-id"], labels["backstage.io/kubernetes-id"],
		f.Env[ServiceVariables[0]], f.Env[ServiceVariables[1]],
		labels["tags.datadoghq.com/service"], labels["app.kubernetes.io/name"], labels["app"],
		of(f).Labels["com.datadoghq.tags.service"], of(f).Labels["com.docker.compose.service"],
		pod(f).Workload.Name, task(f).Service, task(f).Family, strings.TrimSuffix(f.Unit, ".service"),
	}
}

// LoadMapping reads a Backstage catalog (.yaml, .yml) or a table (.csv). A file that cannot be read
// whole is refused whole, and so is one without an entry.
func LoadMapping(name string) (*Mapping, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read the owners' file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxMapping+1))
	if err != nil {
		return nil, fmt.Errorf("read the owners' file: %w", err)
	}
	if len(text) > maxMapping {
		return nil, fmt.Errorf("read the owners' file: %s has more than %d MiB", name, maxMapping>>20)
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // as some editors and spreadsheets write
	var m *Mapping
	switch filepath.Ext(name) {
	case ".csv":
		m, err = parseTable(text)
	case ".yaml", ".yml":
		m, err = parseCatalog(text)
	default:
		err = errors.New("want .csv or .yaml")
	}
	if err != nil {
		return nil, fmt.Errorf("read the owners' file: %s: %w", name, err)
	}
	return m, nil
}

// find returns the owner of the first line that is right, and why it is.
func (m *Mapping) find(f *Facts) (who, why string) {
	if m == nil {
		return "", ""
	}
	for _, l := range m.lines {
		for _, value := range facts[l.fact](f) {
			if matches(l.pattern, value) {
				return l.owner, l.fact + " " + value
			}
		}
	}
	return "", ""
}

// matches: a star at the end takes all that follows, further folders too.
func matches(pattern, value string) bool {
	if value == "" {
		return false
	}
	if head, ok := strings.CutSuffix(pattern, "*"); ok && !strings.ContainsAny(head, `*?[\`) {
		return strings.HasPrefix(value, head)
	}
	ok, _ := path.Match(pattern, value) // that it is well-formed was seen when it was read
	return ok
}
