package main

import (
	"io"
	"net/http"
)

// collectorAddr is where the bridge sends its spans.
const collectorAddr = "127.0.0.1:4318"

// collectRole is an OTLP collector that takes everything and keeps nothing.
func collectRole([]string) error {
	return http.ListenAndServe(collectorAddr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // a broken export is counted by the bridge
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
}
