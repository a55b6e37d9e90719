package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// stateFile names the file that says what the others are. No file of a bridge has a dot in its name.
const stateFile = "imds-bridge.state"

// Keep gives s to systemd, which keeps the files until the service is started again, and then hands
// them to [Kept]. It returns how many files those are: whether systemd has room for them
// (FileDescriptorStoreMax=) it does not say. With an error it has none. The files stay open here.
func Keep(s State) (n int, err error) {
	if err := errors.Join(give(s), barrier()); err != nil {
		return 0, errors.Join(err, Forget(s))
	}
	return len(s.Files) + 1, nil
}

// give sends s to systemd, which does not answer.
func give(s State) error {
	description, err := describe(s)
	if err != nil {
		return err
	}
	defer description.Close()
	files := maps.Clone(s.Files)
	files[stateFile] = description
	for _, name := range slices.Sorted(maps.Keys(files)) {
		// FDPOLL=0: or systemd would drop a socket at which something has happened.
		if err := notify("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, files[name]); err != nil {
			return fmt.Errorf("give %s to systemd: %w", name, err)
		}
	}
	return nil
}

// describe writes what s is, but for the files, into a file without a name in any directory.
func describe(s State) (*os.File, error) {
	text, err := json.Marshal(message{Kind: state, Version: s.Version, Terms: s.Terms, Files: s.names()})
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate(stateFile, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), stateFile)
	if _, err := f.Write(text); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Forget lets systemd drop its copies of what it keeps of s, and waits until it has.
func Forget(s State) error {
	var errs []error
	for _, name := range append(s.names(), stateFile) {
		errs = append(errs, notify("FDSTOREREMOVE=1\nFDNAME="+name))
	}
	return errors.Join(append(errs, barrier())...)
}

// Kept returns what systemd kept for this service, nil if that is nothing. It can be called once. What
// is no bridge's is dropped, and an error.
func Kept() (*State, error) {
	files := activation.Files(true)
	if len(files) == 0 {
		return nil, nil
	}
	all := State{Files: map[string]*os.File{}}
	for _, f := range files {
		if all.Files[f.Name()] != nil {
			all.Files[f.Name()].Close() // of this name there are more: the count will not be right
		}
		all.Files[f.Name()] = f
	}
	s, err := recognize(all, len(files))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("use what systemd kept: %w", err), Forget(all), all.Close())
	}
	return s, nil
}

// recognize makes of all files those of a state.
func recognize(all State, n int) (*State, error) {
	description := all.Files[stateFile]
	if description == nil {
		return nil, fmt.Errorf("%w: no file says what the others are", errMalformed)
	}
	// Not from where the file stands: that is shared with the bridge that wrote it.
	text, err := io.ReadAll(io.NewSectionReader(description, 0, maxBytes))
	if err != nil {
		return nil, err
	}
	m, err := parse(text, 0, n-1)
	if err != nil {
		return nil, err
	}
	for _, name := range m.Files {
		if all.Files[name] == nil {
			return nil, fmt.Errorf("%w: no file by the name of %q", errMalformed, name)
		}
	}
	delete(all.Files, stateFile)
	description.Close()
	return &State{Version: m.Version, Terms: m.Terms, Files: all.Files}, nil
}
