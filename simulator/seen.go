package simulator

import (
	"maps"
	"net/http"
	"sync"
	"time"
)

// RememberedRequests is how many requests [Simulator.Requests] goes back.
const RememberedRequests = 1024

// Counts is what reached the simulator.
type Counts struct {
	Connections   int `json:"connections"`
	Requests      int `json:"requests"`       // all, also those that could not be read
	TokenRequests int `json:"token_requests"` // PUT to the token path, whatever came of it
	TokensIssued  int `json:"tokens_issued"`
	V1            int `json:"v1"`       // GET and HEAD without a token, answered or not
	V2            int `json:"v2"`       // GET and HEAD with a token, valid or not
	Rejected      int `json:"rejected"` // answered with 400 or above
	Dropped       int `json:"dropped"`  // not answered
	// MetadataNoToken and MetadataNoTokenRejected are CloudWatch's metrics of these names: IMDSv1 calls
	// that were served, and IMDSv1 calls made while tokens were required.
	MetadataNoToken         int         `json:"metadata_no_token"`
	MetadataNoTokenRejected int         `json:"metadata_no_token_rejected"`
	ByStatus                map[int]int `json:"by_status"`
}

// Request is one request as it came. It holds tokens, as sent.
type Request struct {
	Time   time.Time   `json:"time"`
	Local  string      `json:"local"`  // address and port it was sent to
	Remote string      `json:"remote"` // address and port it came from
	Kind   string      `json:"kind"`   // token, v1, v2 or other
	Method string      `json:"method"`
	Target string      `json:"target"` // raw, as on the request line
	Proto  string      `json:"proto"`
	Host   string      `json:"host"`
	Header http.Header `json:"header"` // without Host; names in their canonical form
	Head   string      `json:"head"`   // request line and headers, byte for byte
	Body   []byte      `json:"body"`   // up to 64 KiB
	Status int         `json:"status"` // of the answer; 0 if dropped
}

// seen keeps counts and the latest requests.
type seen struct {
	mu     sync.Mutex
	counts Counts
	latest []Request // a ring once it is full
	oldest int
}

func (s *seen) connection() {
	s.mu.Lock()
	s.counts.Connections++
	s.mu.Unlock()
}

func (s *seen) request(r Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.add(r)
	if len(s.latest) < RememberedRequests {
		s.latest = append(s.latest, r)
		return
	}
	s.latest[s.oldest] = r
	s.oldest = (s.oldest + 1) % RememberedRequests
}

func (c *Counts) add(r Request) {
	c.Requests++
	served := r.Status > 0 && r.Status < http.StatusBadRequest
	switch kind(r.Kind) {
	case kindToken:
		c.TokenRequests++
		if served {
			c.TokensIssued++
		}
	case kindV1:
		c.V1++
		if served {
			c.MetadataNoToken++
		}
		if r.Status == http.StatusUnauthorized {
			c.MetadataNoTokenRejected++
		}
	case kindV2:
		c.V2++
	}
	if r.Status == 0 {
		c.Dropped++
		return
	}
	if !served {
		c.Rejected++
	}
	if c.ByStatus == nil {
		c.ByStatus = map[int]int{}
	}
	c.ByStatus[r.Status]++
}

func (s *seen) counted() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := s.counts
	counts.ByStatus = maps.Clone(counts.ByStatus)
	return counts
}

func (s *seen) recent() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append(append([]Request{}, s.latest[s.oldest:]...), s.latest[:s.oldest]...)
}

func (s *seen) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts, s.latest, s.oldest = Counts{}, nil, 0
}
