package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/elazarl/goproxy"

	"github.com/imds-bridge/imds-bridge/imds"
	"github.com/imds-bridge/imds-bridge/policy"
	"github.com/imds-bridge/imds-bridge/report"
)

// holdLimit bounds how long a token request whose answer may not reach its caller is kept
// waiting, as it would wait for the answer that IMDS sent in vain.
const holdLimit = 30 * time.Second

var (
	errNoConnect = errors.New("CONNECT is not served")
	errWithheld  = errors.New("the answer may not reach its caller")
	errUnserved  = errors.New("who called is not served")
	errOtherwise = errors.New("who called is treated in another way than who was likely to")
)

// newEngine sets up goproxy for the one thing that it does here. Everything is set: its defaults
// take the environment's proxies, skip TLS verification, strip and add headers, and answer errors
// with 500.
func (p *Proxy) newEngine() *goproxy.ProxyHttpServer {
	engine := &goproxy.ProxyHttpServer{
		Logger:                 silent{},
		KeepHeader:             true, // requests go on as they came: Connection, Accept-Encoding, all
		KeepAcceptEncoding:     true,
		KeepDestinationHeaders: true,
		Tr:                     nil, // every request gets the round-tripper below
		ConnectDial:            func(string, string) (net.Conn, error) { return nil, errNoConnect },
		NonproxyHandler:        http.NotFoundHandler(), // not reached: serve makes every URL absolute
	}
	engine.OnRequest().DoFunc(func(r *http.Request, ctx *goproxy.ProxyCtx) (*http.Request, *http.Response) {
		e := r.Context().Value(exchangeKey{}).(*exchange)
		ctx.RoundTripper = e
		return r, e.decide(r)
	})
	engine.OnResponse().DoFunc(func(resp *http.Response, ctx *goproxy.ProxyCtx) *http.Response {
		e := ctx.Req.Context().Value(exchangeKey{}).(*exchange)
		return e.answer(resp, ctx.Error)
	})
	return engine
}

// silent drops goproxy's own log: what happens to a call is reported once, by reports.
type silent struct{}

func (silent) Printf(string, ...any) {}

type exchangeKey struct{}

// exchange is one request on its way through the engine.
type exchange struct {
	proxy  *Proxy
	conn   *connection
	writer *answerWriter
	call   *report.Call
	body   []byte

	deadline time.Time // for the head of IMDS's answer
	unserved bool      // the caller turned out to be nobody who is served
}

// serve is the handler of every request that could be parsed.
func (p *Proxy) serve(w *answerWriter, r *http.Request) {
	if w.conn.probe {
		p.answerProbe(w)
		return
	}
	e := &exchange{proxy: p, conn: w.conn, writer: w, call: newCall(w.conn, r)}
	defer e.finish()
	if w.conn.rest == nil {
		e.name()
	}
	if refusal := e.refuse(r); refusal != nil {
		if !e.knows() {
			return
		}
		e.call.Decision = policy.Decision{Verdict: policy.Deny, Reason: policy.Reason(e.call.Error)}
		e.call.Status = refusal.StatusCode
		w.writeLocal(refusal)
		discard(w.conn.Conn)
		return
	}
	// goproxy serves absolute URLs; the address that is dialled comes from the configuration.
	r.URL.Scheme, r.URL.Host = "http", "imds"
	p.engine.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), exchangeKey{}, e)))
	w.flush()
}

// malformed reports what was no request, or not one that can be passed on.
func (p *Proxy) malformed(c *connection, status int, cause error) {
	now := time.Now()
	p.finish(&report.Call{
		Start: now, Client: c.client, Listener: c.listener, Peer: c.peer,
		Caller:   c.name(p.caller),
		Decision: policy.Decision{Verdict: policy.Deny, Reason: report.ErrorMalformed},
		Status:   status,
		Error:    report.ErrorMalformed,
		Cause:    cause,
	})
}

// knows waits until it is known who calls. It returns false where he is not served: his connection is ended.
func (e *exchange) knows() bool {
	if e.conn.rest == nil {
		return !e.unserved
	}
	if e.unserved = !e.proxy.seat(e.conn); !e.unserved {
		e.name()
	}
	return !e.unserved
}

// name puts down who calls.
func (e *exchange) name() {
	e.call.Peer, e.call.Caller = e.conn.peer, e.conn.name(e.proxy.caller)
}

// finish reports the call. A connection that is not served is reported as such.
func (e *exchange) finish() {
	if !e.unserved {
		e.proxy.finish(e.call)
	}
}

func (p *Proxy) finish(call *report.Call) {
	call.End = time.Now()
	p.reporter.Call(call)
}

// refuse turns away what is never for IMDS, whoever sends it.
func (e *exchange) refuse(r *http.Request) *http.Response {
	call := e.call
	if r.Method == http.MethodConnect || r.URL.IsAbs() || r.URL.Host != "" {
		call.Error = report.ErrorTarget
		return local(http.StatusBadRequest, "IMDS is no proxy: ask for a path")
	}
	path, err := imds.Canonical(r.RequestURI)
	if err != nil {
		call.Error, call.Cause = report.ErrorPath, err
		return local(http.StatusBadRequest, "the path can be read in more than one way")
	}
	call.Path = path
	call.Route = imds.RouteOf(path)
	call.Kind = imds.Classify(r.Method, path, r.Header)
	call.RelaySign = imds.RelaySign(r.Host, r.Header)
	return e.readBody(r)
}

func (e *exchange) readBody(r *http.Request) *http.Response {
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	limit := int64(e.proxy.limits.BodyBytes)
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	switch {
	case err != nil:
		e.call.Error, e.call.Cause = report.ErrorBody, err
		return local(http.StatusBadRequest, "the request's body could not be read")
	case int64(len(body)) > limit:
		e.call.Error = report.ErrorBody
		return local(http.StatusRequestEntityTooLarge, "the request's body is too large")
	}
	e.body = body
	return nil
}

// decide asks the policy. It returns the answer of a denied call, nil for one to forward. Nobody is denied anything, or
// waits for a token, before it is known who calls.
func (e *exchange) decide(*http.Request) *http.Response {
	e.judge()
	if e.conn.rest != nil && !e.canGoAhead() {
		if !e.knows() {
			return e.endUnserved()
		}
		e.judge()
	}
	return e.refusal()
}

// canGoAhead tells whether a call may be sent before it is known who calls.
func (e *exchange) canGoAhead() bool {
	if e.call.Method != http.MethodGet && e.call.Method != http.MethodHead {
		return false // it may change something
	}
	switch e.call.Decision.Verdict {
	case policy.Deny:
		return false
	case policy.Upgrade:
		return e.proxy.tokens.isUsable()
	}
	return true
}

// judge asks the policy by what is known of the caller.
func (e *exchange) judge() {
	call := e.call
	call.Decision = e.proxy.policy.Decide(policy.Call{
		Kind:      call.Kind,
		OwnNetNS:  call.Peer.OwnNetNS,
		Ambiguous: call.Peer.Ambiguous,
		Relayed:   call.RelaySign != "",
	})
}

// refusal is the answer of a denied call, nil for one to forward.
func (e *exchange) refusal() *http.Response {
	call := e.call
	if call.Decision.Verdict != policy.Deny {
		return nil
	}
	switch call.Decision.Reason {
	case policy.Method:
		refusal := local(http.StatusMethodNotAllowed, "IMDS takes GET, HEAD and PUT")
		refusal.Header.Set("Allow", "GET, HEAD, PUT")
		return refusal
	case policy.Relayed:
		return local(http.StatusForbidden, "an IMDSv1 call with "+call.RelaySign+" looks relayed and is not upgraded; use a session token (IMDSv2)")
	}
	if call.Kind == imds.TokenRequest {
		return local(http.StatusForbidden, "session tokens are not given to this caller")
	}
	// What IMDS answers when tokens are required: SDKs take it as the sign to speak v2.
	return local(http.StatusUnauthorized, "IMDSv1 is not allowed for this caller; use a session token (IMDSv2)")
}

// RoundTrip forwards the call: it is the engine's way to IMDS.
func (e *exchange) RoundTrip(r *http.Request, _ *goproxy.ProxyCtx) (*http.Response, error) {
	e.deadline = e.call.Start.Add(e.proxy.upstream.Timeout)
	resp, err := e.forward(r)
	if e.conn.rest != nil { // the call was not sent
		if known := e.meanwhile(); known != nil {
			err = known
		}
	}
	switch {
	case e.unserved:
		return e.endUnserved(), nil
	case !errors.Is(err, errOtherwise):
		return resp, err
	}
	e.call.Upgraded = false
	if refusal := e.refusal(); refusal != nil {
		return refusal, nil
	}
	return e.forward(r)
}

// meanwhile finds out who calls while IMDS is at work. It returns an error for a call that was not right to send, whose answer
// nobody reads.
func (e *exchange) meanwhile() error {
	sent := e.call.Decision
	if !e.knows() {
		return errUnserved
	}
	if e.judge(); e.call.Decision != sent {
		return errOtherwise
	}
	return nil
}

// endUnserved is for a connection that has its answer, and is closed.
func (e *exchange) endUnserved() *http.Response {
	e.writer.abandon()
	return local(http.StatusMisdirectedRequest, "not served")
}

// forward sends the call as was decided.
func (e *exchange) forward(r *http.Request) (*http.Response, error) {
	if e.call.Decision.Verdict == policy.Upgrade {
		return e.upgrade(r)
	}
	return e.send(r, "")
}

// upgrade forwards with the bridge's token, and once more with a new one when IMDS does not
// know it any longer.
func (e *exchange) upgrade(r *http.Request) (*http.Response, error) {
	token, err := e.proxy.tokens.get(e.deadline, e.call)
	if errors.Is(err, errNoTokens) {
		// An endpoint without IMDSv2: the call is what it was.
		return e.send(r, "")
	}
	if err != nil {
		return nil, err
	}
	e.call.Upgraded = true
	resp, err := e.send(r, token)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	resp.Body.Close()
	e.proxy.tokens.reject(token)
	if token, err = e.proxy.tokens.get(e.deadline, e.call); err != nil {
		return nil, err
	}
	return e.send(r, token)
}

func (e *exchange) send(r *http.Request, token string) (*http.Response, error) {
	var meanwhile func() error
	if e.conn.rest != nil {
		meanwhile = e.meanwhile
	}
	answer, err := e.proxy.upstream.roundTrip(e.deadline, e.call, request{
		method: r.Method,
		target: r.RequestURI,
		proto:  r.Proto,
		host:   r.Host,
		header: r.Header,
		body:   e.body,
		token:  token,
		watch:  e.call.Decision.HopLimit,

		meanwhile: meanwhile,
	})
	if e.call.Decision.HopLimit && errors.Is(err, os.ErrDeadlineExceeded) {
		// It may have died on its way to us, where hop limits are not read but enforced.
		return nil, e.withhold()
	}
	if err != nil {
		return nil, err
	}
	resp := answer.Response
	e.writer.foreign(resp, answer.head, token != "")
	if err := e.conn.limitHops(0); err != nil {
		resp.Body.Close()
		return nil, err
	}
	if e.call.Decision.HopLimit {
		return e.limitHops(resp, answer.hopLimit)
	}
	return resp, nil
}

// limitHops lets a token go as far as IMDS meant it to. The bridge stands on the host, one hop
// nearer to the caller, where the answer arrives with the instance's hop limit as its TTL.
func (e *exchange) limitHops(resp *http.Response, received hopLimit) (*http.Response, error) {
	hops := received() - 1
	if hops >= 1 {
		if err := e.conn.limitHops(hops); err != nil {
			resp.Body.Close()
			return nil, err
		}
		return resp, nil
	}
	resp.Body.Close()
	return nil, e.withhold()
}

// withhold is for an answer that would have died on the way: SDKs wait for it until they give up.
func (e *exchange) withhold() error {
	e.conn.hold(holdLimit)
	return errWithheld
}

// answer turns what came of the call into what its caller gets.
func (e *exchange) answer(resp *http.Response, err error) *http.Response {
	switch {
	case errors.Is(err, errWithheld):
		e.call.Error = report.ErrorWithheld
		e.writer.abandon()
		return local(http.StatusServiceUnavailable, "withheld")
	case resp == nil:
		e.call.Error, e.call.Cause = report.ErrorUpstream, err
		e.writer.head = nil // of an answer that came to nothing
		// Neither 403, 404 nor 405: those make SDKs give up on IMDSv2. 503 makes them retry.
		resp = local(http.StatusServiceUnavailable, "IMDS does not answer")
	}
	e.call.Status = resp.StatusCode
	return resp
}
