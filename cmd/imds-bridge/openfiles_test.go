package main

import "testing"

func TestConnectionsFitTheOpenFiles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		connections int
		files       uint64
		want        int
		lowered     bool
	}{
		{1024, 1 << 62, 1024, false},
		{1024, 192 + 2048, 1024, false},
		{1024, 192 + 2047, 1023, true},
		{1024, 193, 1, true},
		{1024, 0, 1, true},
	} {
		if got, lowered := connectionsWithin(c.connections, c.files); got != c.want || lowered != c.lowered {
			t.Errorf("%d with %d files: %d, %t", c.connections, c.files, got, lowered)
		}
	}
}
