package client

import (
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/imds"
)

func BenchmarkIdentifyAndAdvise(b *testing.B) {
	libraries := make([]Library, 0, 200)
	for i := range 198 {
		libraries = append(libraries, Library{Go, "example.com/module/" + string(rune('a'+i%26)), "v1.0.0"})
	}
	libraries = append(libraries, Library{Go, "github.com/aws/aws-sdk-go", "v1.19.0"})
	for name, e := range map[string]Evidence{
		"go":            {UserAgent: "aws-sdk-go/1.19.0 (go1.13; linux; amd64)", Executable: "/srv/app"},
		"boto3":         {UserAgent: "Boto3/1.9.253 Python/3.6.8 Linux/4.14.138-114.102.amzn2.x86_64 Botocore/1.12.253", Executable: "/usr/bin/python3.6", Libraries: []Library{{PyPI, "botocore", "1.12.253"}, {PyPI, "boto3", "1.9.253"}}},
		"curl":          {UserAgent: "curl/7.61.1", Executable: "/usr/bin/curl", Package: Package{"curl", "7.61.1"}},
		"modules":       {UserAgent: "aws-sdk-go/1.19.0 (go1.13; linux; amd64)", Executable: "/srv/app", Libraries: libraries},
		"modules, kept": {UserAgent: "aws-sdk-go/1.19.0 (go1.13; linux; amd64)", Executable: "/srv/app", Libraries: Keep(libraries)},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var h History
			for range b.N {
				Advise(Identify(e), Seen{Kind: imds.V1, Path: instanceID, History: &h})
			}
		})
	}
}

func BenchmarkHistoryAdd(b *testing.B) {
	b.ReportAllocs()
	var h History
	now := time.Unix(1_700_000_000, 0)
	paths := []string{instanceID, credentials, "/latest/meta-data/mac", "/latest/user-data"}
	var routes []string
	for _, p := range paths {
		routes = append(routes, imds.RouteOf(p).Pattern)
	}
	for i := range b.N {
		now = now.Add(time.Second)
		h.Add(Call{At: now, Kind: imds.V1, Path: paths[i%4], Route: routes[i%4], Status: 200, Answered: true})
	}
}

func BenchmarkWaste(b *testing.B) {
	h := newCalls()
	for range 60 {
		h.get(imds.V1, instanceID)
		h.wait(time.Second)
	}
	b.ReportAllocs()
	for range b.N {
		h.Waste()
	}
}
