package client

import (
	"cmp"
	"slices"

	"github.com/imds-bridge/imds-bridge/imds"
)

// Code is what is to be done, one of a closed set: fit for metric labels.
type Code string

const (
	Upgrade     Code = "upgrade"
	PreferV2    Code = "prefer-v2-setting"
	DisableV1   Code = "disable-v1-fallback"
	ReplaceCurl Code = "replace-curl"
	RaiseHops   Code = "hop-limit"
	FixToken    Code = "slow-token"
	Rewrite     Code = "rewrite"
	NoneNeeded  Code = "none-needed"
	NotKnown    Code = "unknown"
)

const (
	hopLimitPage = "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-IMDS-existing-instances.html"
	// maxAdvice bounds the text of an advice, in bytes.
	maxAdvice = 200
)

// Advice is what a caller's owner should do.
type Advice struct {
	Code Code
	// Text is one line of at most 200 bytes.
	Text string
	// Commands are what to put in the place of a curl or a wget, one to a line, for the path that was read;
	// none for other advice.
	Commands []string
	Link     string
}

// Seen is what is to be advised on: a call, and what the same process did before.
type Seen struct {
	Kind imds.Kind
	// Path is canonical. It goes into Commands alone.
	Path         string
	OtherNetwork bool     // see [Call]
	History      *History // nil when nothing is remembered
}

// Advise says what to do about a client that makes such calls. A client that speaks v2 and fell back
// to v1 is told why, rather than to upgrade.
func Advise(c Client, s Seen) Advice {
	a := c.advise(s)
	if c.Confidence == Guess && slices.Contains([]Code{Upgrade, Rewrite, PreferV2}, a.Code) {
		a.Text = "if this is " + c.row.Title + ": " + a.Text
	}
	a.Link = cmp.Or(a.Link, howV2Works)
	if len(a.Text) > maxAdvice {
		a.Text = a.Text[:maxAdvice]
	}
	return a
}

func (c Client) advise(s Seen) Advice {
	switch s.Kind {
	case imds.V1:
	case imds.V2, imds.TokenRequest:
		return c.keepV2(s)
	default:
		return Advice{Code: NoneNeeded, Text: "this is no call that IMDSv2 changes"}
	}
	speaks := c.SpeaksV2()
	if why := s.History.Fallback(); why != NoFallback && speaks != No {
		return c.fellBack(why)
	}
	if c.row == nil {
		return Advice{Code: NotKnown, Text: "not known which client this is: find the code that calls, and let it fetch a token first"}
	}
	switch {
	case c.row.Support == Plain:
		return c.plain(s)
	case speaks == No:
		return c.upgrade()
	case speaks == IfAllowed:
		return Advice{Code: PreferV2, Text: "set " + c.row.Setting + " in " + c.row.Title + ", or upgrade it to >= " + c.row.Default, Link: c.row.Link}
	case speaks == Yes:
		return c.unexplained(s)
	}
	return c.upgrade()
}

// keepV2 is for a client that called by v2.
func (c Client) keepV2(s Seen) Advice {
	if s.History.Fallback() != NoFallback {
		return Advice{Code: NoneNeeded, Text: "this call needs no change; its v1 calls do"}
	}
	if !c.canDisableV1() {
		return Advice{Code: NoneNeeded, Text: "speaks v2 already"}
	}
	return Advice{
		Code: DisableV1, Link: settings,
		Text: "speaks v2 already: AWS_EC2_METADATA_V1_DISABLED=true keeps it (in releases from 2024 on) from falling back to v1",
	}
}

// fellBack is for a client that asked for a token before it called by v1.
func (c Client) fellBack(why Fallback) Advice {
	name := c.short()
	switch why {
	case HopLimit:
		return Advice{Code: RaiseHops, Link: hopLimitPage, Text: name + " speaks v2, but its container got no answer to its token request: raise the instance's HttpPutResponseHopLimit to 2"}
	case SlowToken:
		return Advice{Code: FixToken, Link: settings, Text: name + " speaks v2, but got no token within a second and fell back to v1: find what slows down its PUT, then restart it"}
	}
	return Advice{Code: FixToken, Link: settings, Text: name + " speaks v2, but its token request was refused and it fell back to v1: find what refuses the PUT, then restart it"}
}

// unexplained is for a client that speaks v2 and called by v1 without a token request before it that
// we know of. SDKs that fell back stay with v1 for as long as they run; that it did, and why, is a guess.
func (c Client) unexplained(s Seen) Advice {
	name := c.short()
	if c.row.Relays {
		return Advice{Code: NotKnown, Text: name + " passes on what its pods ask: find the pod that calls by v1"}
	}
	if s.History.HasTokens() {
		return Advice{Code: NotKnown, Text: name + " speaks v2 and gets its tokens: something else in the same process calls by v1"}
	}
	if s.OtherNetwork {
		// Not the hop limit: a wider one is for what was seen to need it.
		return Advice{Code: FixToken, Link: settings, Text: name + " speaks v2, but was not seen to ask for a token: restart it and watch for that; only if no token comes back, see to the hop limit"}
	}
	a := Advice{Code: FixToken, Link: settings, Text: name + " speaks v2 and seems to have fallen back to v1 some time ago: restart it"}
	if c.canDisableV1() {
		a.Text += ", with AWS_EC2_METADATA_V1_DISABLED=true (releases from 2024 on)"
	}
	return a
}

func (c Client) canDisableV1() bool {
	return c.row != nil && c.row.NoFallback || c.sdk != nil && c.sdk.NoFallback
}

// upgrade is for a client that does not speak v2, or of which it is not known.
func (c Client) upgrade() Advice {
	r := c.row
	a := Advice{Code: Upgrade, Link: r.Link}
	sdk := c.sdk != nil && r.Support == ByLibrary && c.sdk.First != ""
	switch {
	case r.Replace || r.Support == Never:
		a.Code, a.Text = Rewrite, r.Fix
	case r.Fix != "":
		a.Text = r.Fix
	case c.callsBySDK() && r.since(c.Version, No) == Yes:
		a.Text = "upgrade " + c.sdk.Title + " from " + c.SDKVersion + " to >= " + c.sdk.First + ": " + r.Title + " calls by it"
	case sdk:
		a.Text = "upgrade " + r.Title + " to a release with " + c.sdk.Title + " >= " + c.sdk.First + version(", this one has ", c.SDKVersion)
	case r.First == "" && len(r.On) > 0:
		a.Text = "upgrade " + r.Title + " to a release with an AWS SDK of 2020 or later"
	case r.First == "":
		a.Code, a.Text = NotKnown, "it is not known from when on "+r.Title+" speaks v2: ask its vendor"
	default:
		a.Text = "upgrade " + r.Title + version(" from ", c.Version) + " to >= " + r.First
	}
	if r.Support == WithSetting {
		a.Text = "upgrade " + r.Title + version(" from ", c.Version) + " to >= " + r.Default
	}
	return a
}

func version(before, v string) string {
	if v == "" {
		return ""
	}
	return before + v
}

// short is the client's name for the middle of a sentence.
func (c Client) short() string {
	if c.row == nil {
		return "the client"
	}
	return c.Title()
}

// plain is for calls that somebody wrote by hand.
func (c Client) plain(s Seen) Advice {
	a := Advice{Code: Rewrite, Link: c.row.Link, Text: "the code behind " + c.row.Title + " must fetch a token first and send it with each call, or use an AWS SDK"}
	by := ""
	switch c.Name {
	case "busybox":
		a.Text = c.row.Fix
	case "curl", "shell":
		a.Commands = curlCommands(s.Path)
	case "wget":
		a.Commands = wgetCommands(s.Path)
		if c.Version != "" && Compare(c.Version, wgetWithPUT) < 0 {
			a.Commands = curlCommands(s.Path)
			by = " of curl (" + c.Title() + " cannot send a PUT)"
		}
	}
	if a.Commands != nil {
		a.Code, a.Text = ReplaceCurl, "replace the call by "+c.row.Title+" by two commands"+by+": one fetches a token, one sends it"
	}
	return a
}
