// Command caller calls the metadata service as a host full of programs does: by IMDSv1 and by IMDSv2,
// over IPv4 and IPv6, on a connection for each request. It tells of each call on a line of JSON, and
// ends when its input does, unless it is to tell a file.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// call is one GET, with the request for a token before it if it is one of IMDSv2.
type call struct {
	Kind    string // v1, v2
	Family  int    // 4, 6
	Start   int64  // Unix time in ns
	Took    int64  // ns
	Status  int    // of the last answer; 0 if there was none
	Refused bool   // by connect(), at once
	Error   string
}

func main() {
	every := flag.Duration("every", 20*time.Millisecond, "from one call to the next, whatever becomes of the first; 0: as soon as there is room")
	atOnce := flag.Int("at-once", 1000, "calls under way at once, at most")
	timeout := flag.Duration("timeout", 2*time.Second, "for an answer")
	kind := flag.String("kind", "", "v1 or v2 alone")
	to := flag.String("to", "", "the file that is told of the calls, for as long as the process lives")
	flag.Parse()

	out, in := io.Writer(os.Stdout), io.Reader(os.Stdin)
	if *to != "" {
		file, err := os.OpenFile(*to, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			panic(err)
		}
		endless, _ := io.Pipe()
		out, in = file, endless
	}
	c := caller{
		client: http.Client{Timeout: *timeout, Transport: &http.Transport{DisableKeepAlives: true}},
		out:    json.NewEncoder(out),
	}
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, in)
		close(ended)
	}()
	room := make(chan struct{}, *atOnce)
	var calls sync.WaitGroup
	defer calls.Wait()
	for n := 0; ; n++ {
		select {
		case room <- struct{}{}:
		case <-ended:
			return
		}
		one := call{Kind: [2]string{"v1", "v2"}[n%2], Family: [2]int{4, 6}[n/2%2]}
		if *kind != "" {
			one.Kind = *kind
		}
		calls.Go(func() {
			c.make(one)
			<-room
		})
		select {
		case <-time.After(*every):
		case <-ended:
			return
		}
	}
}

type caller struct {
	client http.Client
	mu     sync.Mutex
	out    *json.Encoder
}

func (c *caller) make(one call) {
	start := time.Now()
	err := c.ask(&one)
	one.Start, one.Took = start.UnixNano(), int64(time.Since(start))
	if err != nil {
		one.Error = err.Error()
		one.Refused = errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ECONNREFUSED)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.out.Encode(one); err != nil {
		panic(err)
	}
}

func (c *caller) ask(one *call) error {
	header := http.Header{}
	if one.Kind == "v2" {
		token, err := c.send(one, http.MethodPut, "api/token", http.Header{"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": {"60"}})
		if err != nil {
			return err
		}
		header.Set("X-Aws-Ec2-Metadata-Token", token)
	}
	id, err := c.send(one, http.MethodGet, "meta-data/instance-id", header)
	if err == nil && !strings.HasPrefix(id, "i-") {
		return fmt.Errorf("instance-id: %q", id)
	}
	return err
}

func (c *caller) send(one *call, method, path string, header http.Header) (string, error) {
	host := map[int]string{4: "169.254.169.254", 6: "[fd00:ec2::254]"}[one.Family]
	request, err := http.NewRequest(method, "http://"+host+"/latest/"+path, nil)
	if err != nil {
		return "", err
	}
	request.Header = header
	one.Status = 0
	answer, err := c.client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", method, request.URL, err)
	}
	if one.Status = answer.StatusCode; answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s %s: %s", method, request.URL, answer.Status)
	}
	return string(body), nil
}
