package client

import "testing"

func TestCompare(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"1.13.25", "1.13.25", 0},
		{"1.13.24", "1.13.25", -1},
		{"1.13.253", "1.13.25", 1},
		{"1.9.253", "1.12.6", -1},
		{"2.11.401", "2.11.5", 1},
		{"4.0.1.0", "4.0.1", 0},
		{"4.0.0.9", "4.0.1.0", -1},
		{"3.3.634.1", "3.5", -1},
		{"1.8.0_202", "1.8.0_31", 1},
		{"22.1.9-0ubuntu1", "22.1.9", 0},
		{"22.4.2-1+deb12u4", "19.4", 1},
		{"1:2.3", "2.3", 0},
		{"1:2.3-4", "2.2.9", 1},
		{"2.42.0+ds-5+deb12u1", "2.35.0", 1},
		{"v1.60.1", "1.68.0", -1},
		{"v0.0.0-20200101120000-abcdef", "0.19.0", -1},
		{"3.6-rc1", "3.6", 0},
		{"1.60.1-DEV", "1.60.1", 0},
		{"010", "10", 0},
		{"99999999999999999999999999", "18446744073709551616", 1},
		{"", "0", 0},
		{"(devel)", "0", 0},
	} {
		if got := Compare(c.a, c.b); got != c.want {
			t.Errorf("Compare(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
		if got := Compare(c.b, c.a); got != -c.want {
			t.Errorf("Compare(%q, %q) = %d, want %d", c.b, c.a, got, -c.want)
		}
	}
}

func TestIsVersion(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]bool{
		"1": true, "1:2.3": true, "v1.2": true, "": false, "(devel)": false, "unknown": false, "x:1": false, ".": false,
	} {
		if got := IsVersion(s); got != want {
			t.Errorf("IsVersion(%q) = %v", s, got)
		}
	}
}

func TestCleanVersion(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"1.19.0": "1.19.0", "v1.60.1": "1.60.1", "22.4.2-1+deb12u4": "22.4.2-1+deb12u4",
		"1.0\x1b[31m": "", "1;rm": "", "1.0\n": "", "latest": "",
		"1.00000000000000000000000000000000": "",
	} {
		if got := cleanVersion(s); got != want {
			t.Errorf("cleanVersion(%q) = %q, want %q", s, got, want)
		}
	}
}

func FuzzCompare(f *testing.F) {
	f.Add("1:2.3-4", "v1.8.0_202")
	f.Fuzz(func(t *testing.T, a, b string) {
		if Compare(a, b) != -Compare(b, a) || Compare(a, a) != 0 {
			t.Fatalf("Compare(%q, %q) is not symmetric", a, b)
		}
	})
}
