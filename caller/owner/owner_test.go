package owner

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/caller/container"
)

var shop = Facts{
	Container: &container.Container{
		Name: "k8s_web", Image: container.Image{Name: "registry/shop/web"}, Labels: map[string]string{"team": "platform"},
		Pod: &container.Pod{
			Namespace: "shop", Container: "web", ServiceAccount: "web-sa",
			Labels:   map[string]string{"app.kubernetes.io/name": "web", "team": "checkout"},
			Workload: container.Workload{Kind: "Deployment", Name: "web"},
		},
		Task: &container.Task{Family: "shop-web", Service: "web-service"},
	},
	Unit: "kubelet.service", Executable: "/app/bin/web", User: "nobody", Package: "web",
	Env:  map[string]string{"OTEL_SERVICE_NAME": "web-otel"},
	Tags: map[string]string{"team": "infra"},
}

func TestFirstRuleThatKnowsWins(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Owner{
		"pod.label:team container.label:team":     {"checkout", "pod.label:team"},
		"pod.label:owner container.label:team":    {"platform", "container.label:team"},
		"env:DD_SERVICE env:OTEL_SERVICE_NAME":    {"web-otel", "env:OTEL_SERVICE_NAME"},
		"pod.annotation:x instance.tag:team unit": {"infra", "instance.tag:team"},
		"pod.namespace":       {"shop", "pod.namespace"},
		"pod.service_account": {"web-sa", "pod.service_account"},
		"pod.workload":        {"web", "pod.workload"},
		"ecs.service":         {"web-service", "ecs.service"},
		"ecs.family":          {"shop-web", "ecs.family"},
		"container.name":      {"k8s_web", "container.name"},
		"container.image":     {"registry/shop/web", "container.image"},
		"unit":                {"kubelet.service", "unit"},
		"package user":        {"web", "package"},
		"file":                {},
		"":                    {},
	} {
		rules, err := ParseRules(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := Find(rules, nil, &shop); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
		if got := Find(rules, nil, &Facts{}); got != (Owner{}) {
			t.Errorf("%q: nothing is known, and it is %+v", text, got)
		}
	}
}

func TestBadRulesAreNamed(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"pod.label":      "pod.label needs a key",
		"pod.label:":     "needs a key",
		"unit:x":         "unit takes no key",
		"unit pod.lable": `no source "pod.lable": there are container.image`,
	} {
		if _, err := ParseRules(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestRulesTellWhatTheyLookAt(t *testing.T) {
	t.Parallel()
	rules, err := ParseRules("env:A instance.tag:t env:B env:A unit")
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(Variables(rules), Tags(rules)); got != "[A B] [t]" {
		t.Error(got)
	}
}

func load(t *testing.T, name, text string) (*Mapping, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return LoadMapping(file)
}

func TestTable(t *testing.T) {
	t.Parallel()
	for lines, want := range map[string]Owner{
		"fact,pattern,owner\nunit,cron.service,ops\nexecutable,/app/*,web-team\n": {"web-team", "file: executable /app/bin/web"},
		"# who has what\nimage,registry/shop/*,shop-team":                         {"shop-team", "file: image registry/shop/web"},
		"executable,/*/bin/web,by-folder":                                         {"by-folder", "file: executable /app/bin/web"},
		"executable,/app/*/w?b,by-folder":                                         {"by-folder", "file: executable /app/bin/web"},
		"executable,/ap?/*,too-deep":                                              {},
		"unit,kubelet,by-unit":                                                    {"by-unit", "file: unit kubelet"},
		"container,web,by-name\ncontainer,k8s_web,second":                         {"by-name", "file: container web"},
		"service,web,by-service":                                                  {"by-service", "file: service web"},
		"script,,x":                                                               {},
		"\ufeffFact , Pattern , Owner\r\nunit , kubelet.service , ops \r\n":       {"ops", "file: unit kubelet.service"},
	} {
		m, err := load(t, "owners.csv", lines)
		if strings.HasPrefix(lines, "script,,") {
			if err == nil {
				t.Error("an empty pattern is taken")
			}
			continue
		}
		if err != nil {
			t.Fatalf("%q: %v", lines, err)
		}
		if got := Find([]Rule{{Source: "file"}}, m, &shop); got != want {
			t.Errorf("%q: %+v, want %+v", lines, got, want)
		}
		if got := Find([]Rule{{Source: "file"}}, m, &Facts{}); got != (Owner{}) {
			t.Errorf("%q: nothing is known, and it is %+v", lines, got)
		}
	}
}

func TestCatalog(t *testing.T) {
	t.Parallel()
	m, err := load(t, "catalog-info.yaml", `
apiVersion: backstage.io/v1alpha1
kind: System
metadata: {name: web}
spec: {owner: nobody}
---
apiVersion: backstage.io/v1alpha1
kind: Component
metadata:
  name: web-frontend
  annotations: {backstage.io/kubernetes-id: web}
spec: {type: service, lifecycle: production, owner: "group:default/checkout"}
---
# nothing, which is not the end
---
kind: Component
metadata: {name: orphan}
spec: {type: service}
---
kind: Component
metadata: {name: "w*"}
spec: {owner: &team star}
---
kind: Component
metadata: {name: later}
spec: {x: &team late, owner: *team}
---
kind: Template
metadata: {name: not-asked}
spec: {owner: [a, b]}
`)
	if err != nil {
		t.Fatal(err)
	}
	if m.Entries != 3 || m.Ownerless != 1 {
		t.Errorf("%d entries, %d without an owner", m.Entries, m.Ownerless)
	}
	if got := Find([]Rule{{Source: "file"}}, m, &Facts{Unit: "later.service"}); got.Name != "late" {
		t.Errorf("behind an empty document: %+v", got)
	}
	if got, want := Find([]Rule{{Source: "file"}}, m, &shop), (Owner{"checkout", "file: service web"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	cron := Facts{Unit: "web-frontend.service"}
	if got := Find([]Rule{{Source: "file"}}, m, &cron); got.Name != "checkout" {
		t.Errorf("%+v", got)
	}
	if got := Find([]Rule{{Source: "file"}}, m, &Facts{Unit: "wx.service"}); got.Name != "" {
		t.Errorf("a name is taken for a pattern: %+v", got)
	}
}

func TestBadFilesAreRefusedWhole(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, text, want string }{
		{"o.csv", "unit,a,b\nunti,a,b", `line 2: no fact "unti": there are container, ecs_family, ecs_service, executable, image, namespace, package, script, service, service_account, unit, user, workload`},
		{"o.csv", "fact,pattern,owner\nunit,a", "line 2: 2 fields, want 3: fact,pattern,owner"},
		{"o.csv", "unit;a;b", "line 1: 1 field, want 3: fact,pattern,owner"},
		{"o.csv", "unit,[,b", "line 1: pattern"},
		{"o.csv", "unit,a, ", "line 1: pattern or owner is empty"},
		{"o.csv", "", "o.csv: no entry: want lines of fact,pattern,owner"},
		{"o.csv", "# none yet\n\nfact,pattern,owner\n", "no entry"},
		{"o.yaml", "kind: [", "o.yaml: line 1: "},
		{"o.yaml", "hello", "o.yaml: line 1: "},
		{"o.yaml", "", "o.yaml: no entry: want documents of kind Component with metadata.name and spec.owner"},
		{"o.yaml", "# none yet\n---\n", "no entry"},
		{"o.yaml", "kind: Group\nmetadata: {name: a}\n---\nkind: Component\nmetadata: {name: b}\nspec: {owner: 'group:'}\n", "no entry"},
		{"o.yaml", "kind: Group\n---\n---\n# b\nkind: Component\nmetadata: [x]\n", "o.yaml: line 6: "},
		{"o.yaml", "kind: Component\nspec: {owner: a}\n", "no entry"},
		{"o.yaml", "kind: Group\n---\nkind: Component\nmetadata: {name: b}\nspec: {owner: [a]}\n", `the document from line 3: spec.owner of Component "b" must be text`},
		{"o.txt", "", "want .csv or .yaml"},
		{"o.csv", strings.Repeat("#\n", maxMapping), "more than 8 MiB"},
	} {
		if _, err := load(t, tt.name, tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.20q: %v", tt.text, err)
		}
	}
	if _, err := LoadMapping("/nowhere.csv"); err == nil || !strings.Contains(err.Error(), "/nowhere.csv") {
		t.Error(err)
	}
}
