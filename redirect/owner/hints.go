package owner

import (
	"slices"
	"strconv"
	"strings"
)

// knownHolder asks those who had sockets before, by the descriptors that they had them by.
func (s *search) knownHolder(who user, link string) (holder, bool) {
	if h, ok := s.seen.Get(link); ok && s.holds(h, link) {
		return h, true
	}
	known, _ := s.hints.Get(who)
	for _, h := range known {
		if s.holds(h, link) {
			return h, true
		}
	}
	return holder{}, false
}

// among finds the socket among the descriptors of one who called before, and remembers his other sockets.
func (s *search) among(pid int, link string) (fd int, ok bool) {
	path := strconv.Itoa(pid) + "/fd"
	names, err := s.list(path, 0)
	if err != nil {
		s.note(err)
		return 0, false
	}
	left := maxLearned
	for _, name := range names {
		if left == 0 || s.ctx.Err() != nil {
			break
		}
		target, err := s.target(path + "/" + name)
		number, malformed := strconv.Atoi(name)
		if err != nil || malformed != nil || !strings.HasPrefix(target, "socket:") {
			continue
		}
		if target == link {
			fd, ok = number, true
			continue
		}
		if ok {
			left--
		}
		s.seen.Add(target, holder{pid, number})
	}
	return fd, ok
}

// remember puts a holder before the others of its user.
func (s *search) remember(who user, h holder) {
	known, _ := s.hints.Get(who)
	if len(known) > 0 && known[0] == h {
		return
	}
	others := slices.DeleteFunc(slices.Clone(known), func(k holder) bool { return k.pid == h.pid })
	s.hints.Add(who, append([]holder{h}, others[:min(len(others), hintsPerUser-1)]...))
}
