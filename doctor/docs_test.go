package doctor

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestReference fails when docs/doctor.md and the checks differ.
func TestReference(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	checksOf, _, _ := strings.Cut(string(page), "\n## JSON")
	var documented, want []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\|").FindAllStringSubmatch(checksOf, -1) {
		documented = append(documented, m[1])
	}
	for _, c := range checks {
		want = append(want, c.name)
	}
	if want = append(want, choiceName); !slices.Equal(documented, want) {
		t.Errorf("docs/doctor.md has\n%v, want\n%v", documented, want)
	}
}
