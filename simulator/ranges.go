package simulator

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// inRange cuts a 200 that offers byte ranges down to the one range that was asked for: 206, or 416 if
// it lies outside. Several ranges, other units and malformed ones are answered whole, as RFC 9110
// section 14.2 allows.
func (a answer) inRange(req *http.Request) answer {
	spec, ok := strings.CutPrefix(req.Header.Get("Range"), "bytes=")
	if a.header["Accept-Ranges"] != "bytes" || req.Method != http.MethodGet || !ok {
		return a
	}
	first, last, ok := parseRange(spec, len(a.body))
	if !ok {
		return a
	}
	if first > last {
		outside := page(http.StatusRequestedRangeNotSatisfiable)
		outside.header["Content-Range"] = fmt.Sprintf("bytes */%d", len(a.body))
		return outside
	}
	a.status = http.StatusPartialContent
	a.header["Content-Range"] = fmt.Sprintf("bytes %d-%d/%d", first, last, len(a.body))
	a.body = a.body[first : last+1]
	return a
}

// parseRange reads "first-last", "first-" or "-length" for a body of size bytes; the last byte returned
// is below the first if the range holds nothing.
func parseRange(spec string, size int) (first, last int, ok bool) {
	from, to, ok := strings.Cut(spec, "-")
	if !ok || from == "" && to == "" {
		return 0, 0, false
	}
	last = size - 1
	if from == "" {
		length, err := strconv.ParseUint(to, 10, 31)
		return max(0, size-int(length)), last, err == nil
	}
	start, err := strconv.ParseUint(from, 10, 31)
	if err != nil {
		return 0, 0, false
	}
	if to != "" {
		end, err := strconv.ParseUint(to, 10, 31)
		if err != nil || end < start {
			return 0, 0, false
		}
		last = min(last, int(end))
	}
	return int(start), last, true
}
