package simulator

import (
	"encoding/json"
	"net/http"
	"time"
)

// behaviourJSON is a [Behaviour] in the control endpoint: the delay is text such as "300ms".
type behaviourJSON struct {
	Delay        string `json:"delay"`
	Drop         string `json:"drop"`
	Status       int    `json:"status"`
	Only         string `json:"only"`
	OlderBackend bool   `json:"older_backend"`
	KeepAlive    bool   `json:"keep_alive"`
}

// Control returns a handler through which another process reads what was seen and changes how the
// simulator behaves. It shows tokens: serve it on loopback or a unix socket.
//
//	GET  /counts             what was seen, see Counts
//	GET  /requests           the latest requests, see Request
//	POST /reset              forget both
//	POST /expire-tokens      make all session tokens invalid
//	GET, POST /behaviour     {"delay":"300ms","drop":"","status":503,"only":"token","older_backend":false,"keep_alive":false}
//	GET, POST /metadata-options   {"HttpTokens":"required","HttpEndpoint":"enabled","HttpPutResponseHopLimit":1,"InstanceMetadataTags":"disabled"}
//
// A POST of settings changes the fields that it names, and answers with all of them.
func (s *Simulator) Control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /counts", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.Counts()) })
	mux.HandleFunc("GET /requests", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.Requests()) })
	mux.HandleFunc("POST /reset", func(http.ResponseWriter, *http.Request) { s.Reset() })
	mux.HandleFunc("POST /expire-tokens", func(http.ResponseWriter, *http.Request) { s.ExpireTokens() })
	mux.HandleFunc("GET /behaviour", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.behaviourJSON()) })
	mux.HandleFunc("POST /behaviour", s.postBehaviour)
	mux.HandleFunc("GET /metadata-options", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.MetadataOptions()) })
	mux.HandleFunc("POST /metadata-options", s.postMetadataOptions)
	return mux
}

func (s *Simulator) behaviourJSON() behaviourJSON {
	b := s.Behaviour()
	return behaviourJSON{b.Delay.String(), b.Drop, b.Status, b.Only, b.OlderBackend, b.KeepAlive}
}

func (s *Simulator) postBehaviour(w http.ResponseWriter, r *http.Request) {
	wanted := s.behaviourJSON()
	if !readJSON(w, r, &wanted) {
		return
	}
	delay, err := time.ParseDuration(wanted.Delay)
	if err == nil {
		err = s.SetBehaviour(Behaviour{delay, wanted.Drop, wanted.Status, wanted.Only, wanted.OlderBackend, wanted.KeepAlive})
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	writeJSON(w, s.behaviourJSON())
}

func (s *Simulator) postMetadataOptions(w http.ResponseWriter, r *http.Request) {
	wanted := s.MetadataOptions()
	if !readJSON(w, r, &wanted) {
		return
	}
	if err := s.SetMetadataOptions(wanted); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	writeJSON(w, s.MetadataOptions())
}

// readJSON decodes a request's body over value, or answers 400.
func readJSON(w http.ResponseWriter, r *http.Request, value any) bool {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(value); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // a client that has gone needs no answer
}
