package simulator

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"reflect"
	"sync"
	"testing"

	"github.com/imds-bridge/imds-bridge/imds"
)

func TestCountsAndRequests(t *testing.T) {
	t.Parallel()
	sim, address := start(t, Options{Metadata: MetadataOptions{HTTPTokens: TokensRequired}})
	token := fetchToken(t, address)
	call(t, address, "PUT", imds.TokenPath, ttlHeader("0"))
	call(t, address, "GET", idPath)
	call(t, address, "HEAD", "//latest/x%2Fy?q", tokenHeader(token))
	call(t, address, "POST", "/")
	exchange(t, address, "nonsense\r\n\r\n")

	want := Counts{
		Connections: 6, Requests: 6, TokenRequests: 2, TokensIssued: 1, V1: 1, V2: 1, Rejected: 5,
		MetadataNoTokenRejected: 1,
		ByStatus:                map[int]int{200: 1, 400: 2, 401: 1, 404: 1, 405: 1},
	}
	if got := sim.Counts(); !reflect.DeepEqual(got, want) {
		t.Errorf("counts\n got %+v\nwant %+v", got, want)
	}

	requests := sim.Requests()
	if len(requests) != 6 {
		t.Fatalf("%d requests", len(requests))
	}
	var kinds []string
	for _, r := range requests {
		kinds = append(kinds, fmt.Sprint(r.Kind, r.Status))
	}
	if got, want := fmt.Sprint(kinds), "[token200 token400 v1401 v2404 other405 other400]"; got != want {
		t.Errorf("kinds %s, want %s", got, want)
	}
	head := requests[3]
	if head.Method != "HEAD" || head.Target != "//latest/x%2Fy?q" || head.Proto != "HTTP/1.1" || head.Host != "169.254.169.254" || head.Local != address {
		t.Errorf("request %+v", head)
	}
	if !reflect.DeepEqual(head.Header, http.Header{imds.HeaderToken: {token}}) {
		t.Errorf("headers %v", head.Header)
	}

	sim.Reset()
	if counts := sim.Counts(); !reflect.DeepEqual(counts, Counts{}) || len(sim.Requests()) != 0 {
		t.Errorf("after reset: %+v, %d requests", counts, len(sim.Requests()))
	}
}

func TestRequestsKeepWhatWasSentByteForByte(t *testing.T) {
	t.Parallel()
	sim, address := start(t, Options{})
	head := "POST /a//b HTTP/1.1\r\nx-lower: 1\r\nX-UPPER:  2\r\nx-lower: 3\r\nContent-Length: 4\r\n\r\n"
	exchange(t, address, head+"\x00\xff\r\n")
	got := sim.Requests()[0]
	if got.Head != head || string(got.Body) != "\x00\xff\r\n" {
		t.Errorf("head %q, body %q", got.Head, got.Body)
	}
}

func TestRequestsAreBoundedAndInOrder(t *testing.T) {
	t.Parallel()
	var s seen
	for i := range RememberedRequests + 7 {
		s.request(Request{Kind: "v1", Status: i + 1})
	}
	got := s.recent()
	if len(got) != RememberedRequests || got[0].Status != 8 || got[len(got)-1].Status != RememberedRequests+7 {
		t.Errorf("%d requests, %d to %d", len(got), got[0].Status, got[len(got)-1].Status)
	}
}

// Many clients at once on two listeners, while settings change and others look: every answer is one
// that some setting explains, and nothing is lost from the counts.
func TestConcurrentLoad(t *testing.T) {
	t.Parallel()
	const clients, calls = 32, 20
	sim, first := start(t, Options{})
	addresses := []string{first, serve(t, sim)}

	stop := make(chan struct{})
	var meddling sync.WaitGroup
	meddling.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := sim.SetMetadataOptions(MetadataOptions{HTTPTokens: []string{TokensOptional, TokensRequired}[i%2]}); err != nil {
				t.Error(err)
			}
			if err := sim.SetBehaviour(Behaviour{OlderBackend: i%3 == 0}); err != nil {
				t.Error(err)
			}
			if i%10 == 0 {
				sim.ExpireTokens()
			}
			sim.Counts()
			sim.Requests()
		}
	})
	var load sync.WaitGroup
	for client := range clients {
		load.Go(func() {
			address := addresses[client%2]
			for range calls {
				token := call(t, address, "PUT", imds.TokenPath, ttlHeader("60"))
				data := call(t, address, "GET", idPath, tokenHeader(token.body))
				v1 := call(t, address, "GET", fmt.Sprintf("/latest/meta-data/ami-id?%d", rand.Int()))
				if token.status != 200 || len(token.body) != 56 {
					t.Errorf("token: %+v", token)
				}
				if data.status != 401 && (data.status != 200 || data.body != idBody) {
					t.Errorf("v2: %+v", data)
				}
				if v1.status != 401 && (v1.status != 200 || v1.body != "ami-0abcdef1234567890") {
					t.Errorf("v1: %+v", v1)
				}
			}
		})
	}
	load.Wait()
	close(stop)
	meddling.Wait()
	const each = clients * calls
	counts := sim.Counts()
	if counts.Connections != 3*each || counts.Requests != 3*each || counts.TokensIssued != each || counts.V1 != each || counts.V2 != each {
		t.Errorf("counts %+v", counts)
	}
	if counts.ByStatus[200]+counts.ByStatus[401] != 3*each || counts.MetadataNoToken+counts.MetadataNoTokenRejected != each {
		t.Errorf("counts %+v", counts)
	}
}
