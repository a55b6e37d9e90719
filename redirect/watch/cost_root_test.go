//go:build root

package watch

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/simulator"
)

func init() { roles["pingpong"] = bePingpong }

// bePingpong sends packets to itself over loopback, as many as are asked for, and says how long one takes.
func bePingpong() error {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	defer conn.Close()
	at := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	tasks, report := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var packets int
		if err := tasks.Decode(&packets); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		b := make([]byte, 100)
		begun, err := cpuTime()
		if err != nil {
			return err
		}
		for range packets {
			if _, err := conn.WriteToUDPAddrPort(b, at); err != nil {
				return err
			}
			if _, err := conn.Read(b); err != nil {
				return err
			}
		}
		ended, err := cpuTime()
		if err != nil {
			return err
		}
		if err := report.Encode(float64(ended-begun) / float64(packets)); err != nil {
			return err
		}
	}
}

// cpuTime is what this process has used: what others do on the machine is not in it.
func cpuTime() (time.Duration, error) {
	var u unix.Rusage
	err := unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err
}

// BenchmarkPacketToOthers is what the watch adds to a packet that is not for IMDS, as it leaves and as
// it arrives: by the kernel's own count of the time in both programs (the clock that it reads for that
// included), and by the difference in CPU time with and without the watch.
func BenchmarkPacketToOthers(b *testing.B) {
	p := newPlace(b, simulator.Behaviour{})
	client := startRole(b, p.Host().Start, "pingpong", nil)
	measure := func(packets int) (ns float64) {
		if err := json.NewEncoder(client.in).Encode(packets); err != nil {
			b.Fatal(err)
		}
		client.read(b, &ns)
		return ns
	}
	const packets, rounds = 20000, 25
	var without, sent, both []float64
	measure(packets)
	for range b.N {
		for range rounds {
			without = append(without, measure(packets))
			w := watch(b, p)
			both = append(both, measure(packets))
			if err := w.links[0].(*link.RawLink).Detach(); err != nil { // ingress
				b.Fatal(err)
			}
			sent = append(sent, measure(packets))
			if err := w.Detach(); err != nil && !errors.Is(err, unix.EINVAL) {
				b.Fatal(err)
			}
			if err := w.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
	// The least: what disturbs a round makes it longer, and never shorter.
	b.ReportMetric(slices.Min(without), "ns/packet")
	b.ReportMetric(slices.Min(sent)-slices.Min(without), "ns/packet-leaving")
	b.ReportMetric(slices.Min(both)-slices.Min(sent), "ns/packet-arriving")

	w := watch(b, p)
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatal(err)
	}
	defer stats.Close()
	measure(packets)
	for name, program := range map[string]*ebpf.Program{"egress": w.objects.Egress, "ingress": w.objects.Ingress} {
		s, err := program.Stats()
		if err != nil {
			b.Fatal(err)
		}
		if s.RunCount < packets {
			b.Errorf("%s ran %d times for %d packets", name, s.RunCount, packets)
		}
		b.ReportMetric(float64(s.Runtime)/float64(s.RunCount), "ns/"+name+"-program")
	}
	b.ReportMetric(0, "ns/op")
}
