package client

// Kind is what sort of program a client is.
type Kind uint8

const (
	KindUnknown Kind = iota
	SDK              // a library of AWS, or in the place of one
	CLI              // a command line of AWS
	Agent            // runs on the host by itself
	Tool             // is run by somebody
	HTTP             // a library or command that speaks HTTP, and of IMDS knows nothing
	Runtime          // only the interpreter is known
)

var kindNames = [...]string{"unknown", "sdk", "cli", "agent", "tool", "library", "runtime"}

// String gives one of a closed set, fit for metric labels.
func (k Kind) String() string { return kindNames[k] }

// Confidence says how sure it is that a client is the one named.
type Confidence uint8

const (
	// None: the client is not known.
	None Confidence = iota
	// Guess: only its name, its interpreter or a habit points to it.
	Guess
	// Claimed: the User-Agent says so, and nothing else. Anybody can send any.
	Claimed
	// Likely: the User-Agent says so and the executable fits.
	Likely
	// Certain: the library is loaded, it is in the build info, or the package manager owns it.
	Certain
)

var confidenceNames = [...]string{"unknown", "guess", "claimed", "likely", "certain"}

// String gives one of a closed set, fit for metric labels.
func (c Confidence) String() string { return confidenceNames[c] }

// Client is who speaks to the metadata service. It can be compared, and is small: names are those
// of the table.
type Client struct {
	// Name is stable and one of a closed set, that of docs/clients.md: fit for metric labels.
	// "unknown" when nothing is known.
	Name string
	Kind Kind
	// Version is "" when not known. It has at most 32 bytes of digits, letters, and ".+~:_-".
	Version    string
	Confidence Confidence
	From       Source
	// SDK is the library by which a tool or an agent calls, or that another SDK is built on.
	SDK, SDKVersion string
	// Contradiction says what does not fit together, "" if nothing. It holds names of the table alone.
	Contradiction string

	row, sdk *Row
}

// Title is the client's name for people, with its version.
func (c Client) Title() string {
	name := "an unknown client"
	if c.row != nil {
		name = c.row.Title
	}
	if c.Version != "" {
		name += " " + c.Version
	}
	return name
}

// Row is what the table says of the client; false for an unknown one.
func (c Client) Row() (Row, bool) {
	if c.row == nil {
		return Row{}, false
	}
	return *c.row, true
}

// Answer says whether a client speaks IMDSv2.
type Answer uint8

const (
	Perhaps   Answer = iota // not known
	Yes                     // it tries v2 first
	No                      // it knows v1 alone
	IfAllowed               // it can, once a setting allows it
)

var answerNames = [...]string{"unknown", "yes", "no", "with_setting"}

// String gives one of a closed set, fit for metric labels.
func (a Answer) String() string { return answerNames[a] }

// SpeaksV2 says whether this client, in this version, speaks IMDSv2. What is not known stays so.
func (c Client) SpeaksV2() Answer {
	if c.row == nil {
		return Perhaps
	}
	if c.callsBySDK() {
		return c.sdk.speaks(c.SDKVersion)
	}
	answer := c.row.speaks(c.Version)
	if answer == Perhaps && c.sdk != nil && c.row.Support != Plain {
		return c.sdk.speaks(c.SDKVersion)
	}
	return answer
}

// callsBySDK tells whether the SDK that the client is on decides: it makes the call, and its version is known.
func (c Client) callsBySDK() bool {
	return c.sdk != nil && c.SDKVersion != "" && c.row.callsBySDK(c.Version)
}

func (r *Row) callsBySDK(version string) bool {
	return r.CallsBySDK != "" && (version == "" || major(version) == r.CallsBySDK)
}
