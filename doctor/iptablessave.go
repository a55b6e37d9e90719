package doctor

import (
	"net/netip"
	"strconv"
	"strings"
)

// parseSave reads what iptables-save and ip6tables-save write.
func parseSave(text, tool string, v6 bool) (sets []*ruleset) {
	var set *ruleset
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			set = newRuleset(tool + " " + line[1:])
			set.v4, set.v6 = !v6, v6
			sets = append(sets, set)
		case set == nil:
		case strings.HasPrefix(line, ":"):
			set.addSavedChain(line[1:])
		case strings.HasPrefix(line, "-A "):
			set.addSavedRule(line)
		}
	}
	return sets
}

var savedHooks = map[string]string{
	"PREROUTING": "prerouting", "INPUT": "input", "FORWARD": "forward", "OUTPUT": "output", "POSTROUTING": "postrouting",
}

// addSavedChain reads "INPUT DROP [0:0]".
func (s *ruleset) addSavedChain(line string) {
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return
	}
	c := &chain{name: fields[0], policy: accept, nat: strings.HasSuffix(s.source, " nat")}
	if fields[1] != "-" { // a chain of the kernel's has a policy
		c.hook = savedHooks[fields[0]]
	}
	if fields[1] == "DROP" {
		c.policy = drop
	}
	s.add(c)
}

// addSavedRule reads "-A INPUT -i docker0 -p tcp -m tcp --dport 80 -j DROP".
func (s *ruleset) addSavedRule(line string) {
	words := splitWords(line)
	if len(words) < 2 {
		return
	}
	c := s.chains[words[1]]
	if c == nil {
		return
	}
	r := rule{text: line}
	for i, negated := 2, false; i < len(words); i++ {
		word := words[i]
		if word == "!" {
			negated = true
			continue
		}
		value := ""
		if i+1 < len(words) {
			value = words[i+1]
		}
		if word == "-j" || word == "-g" {
			r.setTarget(word == "-g", value, s.chains)
			break // what follows are the target's options
		}
		condition, takes := r.savedCondition(word, value, negated)
		if condition != nil {
			if negated {
				condition = negate(condition)
			}
			r.conditions = append(r.conditions, condition)
		}
		for i += takes; i+1 < len(words) && words[i+1] != "!" && !strings.HasPrefix(words[i+1], "-"); i++ { // what else an option takes
		}
		negated = false
	}
	c.rules = append(c.rules, r)
}

func (r *rule) setTarget(goes bool, target string, chains map[string]*chain) {
	r.target = target
	switch {
	case target == "ACCEPT":
		r.action = accept
	case target == "DROP", target == "REJECT":
		r.action = drop
	case target == "RETURN":
		r.action = leave
	case target == "DNAT", target == "REDIRECT":
		r.redirects = true
	case goes:
		r.action = goTo
	case chains[target] != nil:
		r.action = jump
	}
}

// savedCondition understands one option and says how many values it took. A nil condition is no
// condition at all.
func (r *rule) savedCondition(option, value string, negated bool) (c condition, takes int) {
	switch option {
	case "-m", "--comment":
		return nil, 1
	case "-i":
		return onInterface(value, "+", func(p packet) string { return p.in }), 1
	case "-o":
		return onInterface(value, "+", func(p packet) string { return p.out }), 1
	case "-p":
		return certain(answerOf(value == "tcp" || value == "all")), 1
	case "-s", "-d":
		prefix, err := parsePrefix(value)
		if err != nil {
			return uncertain, 1
		}
		if option == "-s" {
			return fromAddress(prefix), 1
		}
		if !negated {
			r.to = append(r.to, prefix)
		}
		return toAddress(prefix), 1
	case "--dport", "--dports":
		return savedPorts(value), 1
	case "--ctstate", "--state":
		return inState(strings.Split(value, ",")), 1
	case "--mark":
		return savedMark(value), 1
	case "--dst-type":
		return func(p packet) answer { return answerOf(p.local == (value == "LOCAL")) }, 1
	default:
		return uncertain, 0
	}
}

// parsePrefix reads "10.0.0.0/8", "10.0.0.1" and "10.0.0.0/255.0.0.0".
func parsePrefix(text string) (netip.Prefix, error) {
	address, mask, hasMask := strings.Cut(text, "/")
	a, err := netip.ParseAddr(address)
	if err != nil {
		return netip.Prefix{}, err
	}
	if !hasMask {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	if bits, err := strconv.Atoi(mask); err == nil {
		return a.Prefix(bits)
	}
	m, err := netip.ParseAddr(mask)
	if err != nil {
		return netip.Prefix{}, err
	}
	bits := 0
	for _, b := range m.AsSlice() {
		for ; b&0x80 != 0; b <<= 1 {
			bits++
		}
	}
	return a.Prefix(bits)
}

// savedPorts reads "80", "80:90" and "80,443,8000:8100".
func savedPorts(text string) condition {
	var list []condition
	for part := range strings.SplitSeq(text, ",") {
		low, high, isRange := strings.Cut(part, ":")
		if !isRange {
			high = low
		}
		from, err := strconv.ParseUint(low, 10, 16)
		to, err2 := strconv.ParseUint(high, 10, 16)
		if err != nil || err2 != nil {
			return uncertain
		}
		list = append(list, toPort(uint16(from), uint16(to)))
	}
	return anyOf(list)
}

// savedMark reads "0x2069/0xffff".
func savedMark(text string) condition {
	value, mask, hasMask := strings.Cut(text, "/")
	v, err := strconv.ParseUint(value, 0, 32)
	if err != nil {
		return uncertain
	}
	m := uint64(0xffffffff)
	if hasMask {
		if m, err = strconv.ParseUint(mask, 0, 32); err != nil {
			return uncertain
		}
	}
	return withMark(uint32(v), uint32(m))
}

// splitWords splits a line as iptables-restore does: words may be in double quotes, with backslashes.
func splitWords(line string) (words []string) {
	var word strings.Builder
	inWord, quoted, escaped := false, false, false
	for _, c := range line {
		switch {
		case escaped:
			word.WriteRune(c)
			escaped = false
		case c == '\\' && quoted:
			escaped = true
		case c == '"':
			quoted, inWord = !quoted, true
		case c == ' ' && !quoted:
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		default:
			word.WriteRune(c)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words
}
