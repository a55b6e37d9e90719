package admin

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Options are what the pages show.
type Options struct {
	// Status is what /readyz says.
	Status  func() Status
	Metrics http.Handler
	// Callers is what /callers?pid= says of the calls of a process, to be shown as JSON; false if it made
	// none that are remembered. nil: there is no such page.
	Callers func(pid uint32) (any, bool)
	Logger  *slog.Logger // takes the HTTP server's own errors
}

// Status tells whether the bridge does its work, and how.
type Status struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"` // why not
	// Redirector brings calls to the bridge, and Choice says why it is that one.
	Redirector string `json:"redirector"`
	Choice     string `json:"choice"`
	// CoverageFrom is since when no call is missed; zero before that.
	CoverageFrom time.Time `json:"coverage_from,omitzero"`
}

// Server answers on the listeners of [Listen]. Make it with [New], end it with Close.
type Server struct{ http http.Server }

// New returns a server of /healthz, /readyz, /metrics, /callers and /debug/pprof/.
func New(o Options) *Server {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]any{"healthy": true})
	})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		s := o.Status()
		code := http.StatusOK
		if !s.Ready {
			code = http.StatusServiceUnavailable
		}
		answer(w, code, s)
	})
	mux.Handle("/metrics", o.Metrics)
	if o.Callers != nil {
		mux.HandleFunc("/callers", func(w http.ResponseWriter, r *http.Request) { showCaller(w, r, o.Callers) })
	}
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return &Server{http.Server{
		Handler:           guard(mux),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      10 * time.Second, // profiles that take longer move it themselves
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn),
	}}
}

// Serve answers until Close, and returns nil then. It closes l.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Close ends all connections at once; nothing here is worth waiting for.
func (s *Server) Close() error { return s.http.Close() }

// guard lets through what only reads and, on TCP, what was meant for this host.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !isLocal(r):
			http.Error(w, "ask for localhost or a loopback address: other host names are refused", http.StatusMisdirectedRequest)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD are answered", http.StatusMethodNotAllowed)
		default:
			w.Header().Set("X-Content-Type-Options", "nosniff")
			next.ServeHTTP(w, r)
		}
	})
}

// isLocal reports whether the Host header names this host. A unix socket has no name to rebind.
func isLocal(r *http.Request) bool {
	if addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && addr.Network() == "unix" {
		return true
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// showCaller answers of one process: who asks has its pid, and the pages of all would be many.
func showCaller(w http.ResponseWriter, r *http.Request, callers func(pid uint32) (any, bool)) {
	pid, err := strconv.ParseUint(r.URL.Query().Get("pid"), 10, 32)
	if err != nil || pid == 0 {
		answer(w, http.StatusBadRequest, map[string]any{"error": "ask for /callers?pid=<number>"})
		return
	}
	known, ok := callers(uint32(pid))
	if !ok {
		answer(w, http.StatusNotFound, map[string]any{"error": "no call of that process is remembered"})
		return
	}
	answer(w, http.StatusOK, known)
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // fails when the reader is gone
}
