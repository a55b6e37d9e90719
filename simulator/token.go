package simulator

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/imds-bridge/imds-bridge/imds"
)

// Session tokens carry their own end and a seal over it, so that any number of them costs no memory
// ("no practical limit on the number of concurrent tokens", EC2 User Guide) and one of another
// simulator is refused, as one of another instance would be.
//
// 40 bytes, in URL-safe base64 56 characters that end in "==":
const (
	tokenPrefixLen = 4  // "AQAE…" today, "AQAA…" from older backends, as in captures
	tokenNonceLen  = 8  // random
	tokenEndLen    = 8  // Unix time in milliseconds
	tokenSealLen   = 20 // HMAC-SHA256, cut
	tokenBodyLen   = tokenPrefixLen + tokenNonceLen + tokenEndLen
	tokenLen       = tokenBodyLen + tokenSealLen
)

var (
	tokenPrefix      = []byte{1, 0, 4, 0}
	tokenPrefixOlder = []byte{1, 0, 0, 0}
)

// tokens issues and checks session tokens. Use newTokens.
type tokens struct {
	key atomic.Pointer[[32]byte]
}

func newTokens() *tokens {
	t := &tokens{}
	t.expireAll()
	return t
}

// expireAll makes every token issued so far invalid.
func (t *tokens) expireAll() {
	key := new([32]byte)
	rand.Read(key[:])
	t.key.Store(key)
}

func (t *tokens) issue(now time.Time, ttl int, prefix []byte) string {
	token := make([]byte, 0, tokenLen)
	token = append(token, prefix...)
	token = token[:tokenPrefixLen+tokenNonceLen]
	rand.Read(token[tokenPrefixLen:])
	end := now.Add(time.Duration(ttl) * time.Second)
	token = binary.BigEndian.AppendUint64(token, uint64(end.UnixMilli()))
	return base64.URLEncoding.EncodeToString(append(token, t.seal(token)...))
}

// remaining returns the seconds that a token has left, rounded up, or 0 if it is not valid.
func (t *tokens) remaining(now time.Time, token string) int {
	raw, err := base64.URLEncoding.DecodeString(token)
	if err != nil || len(raw) != tokenLen || !hmac.Equal(raw[tokenBodyLen:], t.seal(raw[:tokenBodyLen])) {
		return 0
	}
	end := int64(binary.BigEndian.Uint64(raw[tokenPrefixLen+tokenNonceLen:]))
	return max(0, int((end-now.UnixMilli()+999)/1000))
}

func (t *tokens) seal(body []byte) []byte {
	mac := hmac.New(sha256.New, t.key.Load()[:])
	mac.Write(body)
	return mac.Sum(nil)[:tokenSealLen]
}

// parseTTL reads the lifetime that a token request asks for: decimal digits alone, within the bounds.
func parseTTL(value string) (seconds int, ok bool) {
	for _, c := range value {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	seconds, err := strconv.Atoi(value)
	return seconds, err == nil && seconds >= imds.MinTokenTTL && seconds <= imds.MaxTokenTTL
}
