//go:build root

package watch

import (
	"slices"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/simulator"
)

func TestCloseConnectedClosesConnectionsToIMDSAndNoOthers(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Behaviour{})
	other, err := p.IMDS().Listen("tcp", "172.31.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	waiting := func(to string, mark int) call {
		return call{To: to, Mark: mark, Send: []string{getID}, Reads: 1, Wait: true}
	}
	closing := map[string]*process{}
	for _, to := range []string{imds4, imds6, mapped4} {
		client := start(t, p.Host(), []call{waiting(to, 0)}, as(12345, 12345))
		closing[strings.Replace(client.next(t).Local, "::ffff:", "", 1)] = client
	}
	var staying []*process
	for _, client := range []*process{
		start(t, p.Host(), []call{waiting(imds4, mark)}),
		start(t, p.Host(), []call{waiting(imds6, mark|0x70000)}),
		start(t, addContainer(t, p, "one"), []call{waiting(imds4, 0)}),
	} {
		client.next(t)
		staying = append(staying, client)
	}
	elsewhere := start(t, p.Host(), []call{{To: "172.31.0.1:80", Send: []string{getID}, Wait: true}})
	staying = append(staying, elsewhere)
	elsewhere.next(t)

	var closed []Closed
	if err := p.Host().Do(func() (err error) {
		closed, err = CloseConnected(mark)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var clients []string
	for _, c := range closed {
		clients = append(clients, c.Client.String())
		if at := c.IMDS.String(); at != imds4 && at != imds6 || c.UID != 12345 || c.Inode == 0 {
			t.Errorf("closed %+v", c)
		}
	}
	for local, client := range closing {
		if !slices.Contains(clients, local) {
			t.Errorf("%s was not closed", local)
		}
		client.tell(t)
		var s sighting
		if client.read(t, &s); s.Error == "" {
			t.Errorf("the connection of %s still works", local)
		}
	}
	if len(closed) != len(closing) {
		t.Errorf("closed %+v", closed)
	}
	for _, client := range staying {
		client.tell(t)
		client.next(t)
	}
	if err := p.Host().Do(func() (err error) {
		closed, err = CloseConnected(mark)
		return err
	}); err != nil || len(closed) != 0 {
		t.Errorf("closed %+v, %v; there was none", closed, err)
	}
}
