package owner

import (
	"encoding/binary"
	"testing"
)

func TestCgroupIsReadFromTheAttributesOfAnAnswer(t *testing.T) {
	t.Parallel()
	attribute := func(kind uint16, value ...byte) []byte {
		b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
		b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
		return b
	}
	id := attribute(inetDiagCgroupID, binary.NativeEndian.AppendUint64(nil, 4711)...)
	before := append(attribute(8, 7), attribute(15, 1, 0, 0, 0)...)
	for name, c := range map[string]struct {
		attributes []byte
		want       uint64
	}{
		"alone":         {id, 4711},
		"after others":  {append(before[:len(before):len(before)], id...), 4711},
		"before others": {append(id[:len(id):len(id)], before...), 4711},
		"none":          {before, 0},
		"nothing":       {nil, 0},
		"cut off":       {id[:len(id)-1], 0},
		"too short":     {attribute(inetDiagCgroupID, 1, 2, 3, 4), 0},
		"no length":     {make([]byte, 16), 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := parseCgroup(c.attributes); got != c.want {
				t.Errorf("cgroup %d, want %d", got, c.want)
			}
		})
	}
}
