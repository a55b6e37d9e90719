package caller

import (
	"cmp"
	"path"
	"strings"
	"sync"
)

// maxLongLine is how much is read of the command line of an interpreter whose script lies behind the
// first 4 KiB: a class path of java is often that long. One argument cannot be longer.
const maxLongLine = 128 << 10

var longLines = sync.Pool{New: func() any { b := make([]byte, maxLongLine); return &b }}

// effect is what an option does to the words behind it.
type effect uint8

const (
	flag      effect = iota
	hasValue         // the rest of the word, else the next word
	takesNext        // the next word, whatever else its own holds
	hasRest          // the rest of the word, if any
	isProgram        // the program is the value, or standard input
	isModule         // the value names a module
	isFile           // the value names the script
	isServer         // has a value; a script may follow
	isArchive        // the word that is not an option is a file and not a class
	searched         // the word that is not an option is looked for in PATH
)

// syntax is how an interpreter takes what it runs from its arguments: behind options, the first
// word that is none.
type syntax struct {
	// letters are the effects of options of one letter, by effect. Those may share a word: -xe.
	// Without them a word with one dash is one option.
	letters map[effect]string
	// words are those of longer options, without their dashes.
	words map[string]effect
	// plus says that words with + are options too, and that a dash alone only ends them: shells.
	plus bool
	// noScript says that behind -- come arguments of a program on standard input.
	noScript bool
	// class says that the word is the name of a class, unless it has the form of a source file.
	class bool
}

// syntaxes by interpreter, tried with CPython 3.11, Node.js 20, Ruby 3.1, OpenJDK 17, PHP 8.2, Perl
// 5.36, bash 5.2, dash 0.5.12, zsh 5.9 and busybox 1.35. Options that came later are from the manuals.
var syntaxes = map[string]*syntax{
	"python": {
		letters: map[effect]string{hasValue: "WXQ", isProgram: "c", isModule: "m"},
		words:   optionNames{hasValue: "check-hash-based-pycs"}.effects(),
	},
	"node": {
		words: optionNames{
			hasValue: `C conditions allow-fs-read allow-fs-write build-snapshot-config cpu-prof-dir cpu-prof-interval
				cpu-prof-name debug-port diagnostic-dir disable-proto disable-warning dns-result-order env-file
				env-file-if-exists es-module-specifier-resolution experimental-default-type experimental-loader
				experimental-sea-config experimental-specifier-resolution heap-prof-dir heap-prof-interval heap-prof-name
				heapsnapshot-near-heap-limit heapsnapshot-signal icu-data-dir import input-type inspect-port
				inspect-publish-uid loader localstorage-file max-http-header-size
				network-family-autoselection-attempt-timeout openssl-config policy-integrity experimental-policy r
				redirect-warnings report-dir report-directory report-filename report-signal require secure-heap
				secure-heap-min snapshot-blob test-concurrency test-coverage-branches test-coverage-exclude
				test-coverage-functions test-coverage-include test-coverage-lines test-global-setup test-isolation
				test-name-pattern test-reporter test-reporter-destination test-shard test-skip-pattern test-timeout
				title tls-cipher-list tls-keylog trace-event-categories trace-event-file-pattern
				trace-require-module unhandled-rejections use-largepages v8-pool-size watch-kill-signal watch-path`,
			isProgram: "e eval p print pe run",
		}.effects(),
	},
	"ruby": {
		letters: map[effect]string{hasValue: "CEIXr", hasRest: "FKTWix", isProgram: "e", searched: "S"},
		words:   optionNames{hasValue: "backtrace-limit disable dump enable encoding external-encoding internal-encoding parser"}.effects(),
	},
	"java": {
		class: true,
		words: optionNames{
			hasValue: `cp classpath class-path p module-path upgrade-module-path add-modules add-exports add-opens
				add-reads patch-module limit-modules enable-native-access d describe-module source finalization
				illegal-native-access sun-misc-unsafe-memory-access`,
			isModule:  "m module",
			isArchive: "jar",
		}.effects(),
	},
	"php": {
		noScript: true,
		letters:  map[effect]string{hasValue: "cdtzbgpy", isProgram: "rBRE", isFile: "fF", isServer: "S"},
		words: optionNames{
			hasValue:  "bindpath fpm-config pid prefix php-ini define docroot zend-extension rf rfunction rc rclass re rextension rz rzendextension ri rextinfo",
			isProgram: "run process-begin process-code process-end",
			isFile:    "file process-file",
			isServer:  "server",
		}.effects(),
	},
	"perl": {
		letters: map[effect]string{hasValue: "I", hasRest: "CDFMimx", isProgram: "eE", searched: "S"},
	},
	"sh":   shell,
	"bash": shell,
	"dash": shell,
	"zsh":  shell,
	"ksh":  shell,
}

var shell = &syntax{
	plus:    true,
	letters: map[effect]string{takesNext: "oO", isProgram: "cs"},
	words: optionNames{
		hasValue: "rcfile init-file emulate",
		// of bash, which takes them with one dash too
		flag: "debug debugger dump-po-strings dump-strings help login noediting noprofile norc posix restricted verbose version",
	}.effects(),
}

// launchers run a script that is among their arguments, in the same process.
var launchers = map[string]*syntax{
	"ts-node": tsNode, "ts-node-esm": tsNode, "ts-node-script": tsNode, "ts-node-transpile-only": tsNode,
}

var tsNode = &syntax{words: optionNames{
	hasValue: `C compiler I ignore D ignore-diagnostics ignoreDiagnostics O compiler-options compilerOptions P project
		r require cwd dir loader moduleTypes module-types`,
	isProgram: "e eval p print pe",
}.effects()}

// optionNames are options of more letters, by effect.
type optionNames map[effect]string

func (o optionNames) effects() map[string]effect {
	effects := make(map[string]effect)
	for e, names := range o {
		for name := range strings.FieldsSeq(names) {
			effects[name] = e
		}
	}
	return effects
}

// finding is what an interpreter was given to run.
type finding struct {
	what    string
	file    bool // what is the path of a file
	missing bool // the answer lies behind the end of what was read
}

// findScript reads the command line of an interpreter.
func findScript(name string, line []byte, partial bool) finding {
	f := finder{arguments: arguments{line: line, partial: partial}, syntax: syntaxes[name]}
	if first, _ := f.next(); isBusybox(path.Base(first)) {
		f.next()
	}
	found := f.find()
	if launcher := launchers[path.Base(found.what)]; launcher != nil && name == "node" && found.file {
		f.syntax = launcher
		if script := f.find(); script.what != "" || script.missing {
			return script
		}
	}
	return found
}

type finder struct {
	arguments
	*syntax

	otherwise         string // what runs if no script follows
	archive, searches bool
}

func (f *finder) find() finding {
	for {
		word, ok := f.next()
		switch {
		case !ok:
			return finding{what: f.otherwise, missing: f.missing}
		case word == "-" && !f.plus:
			return finding{what: word}
		case word == "--" && f.noScript:
			return finding{what: cmp.Or(f.otherwise, "-")}
		case word == "-", word == "--":
			word, _ = f.next()
			return f.script(word)
		case word == "" || word[0] != '-' && (word[0] != '+' || !f.plus):
			return f.script(word)
		}
		if found, ok := f.option(word); ok {
			found.missing = f.missing
			return found
		}
	}
}

// script is what the first word that is no option means.
func (f *finder) script(word string) finding {
	isClass := f.class && !f.archive && !strings.HasSuffix(word, ".java")
	return finding{what: word, file: word != "" && !isClass && !f.searches, missing: f.missing}
}

// option reads an option, and tells whether it decides what is run.
func (f *finder) option(word string) (found finding, decides bool) {
	name, value, joined := strings.Cut(strings.TrimLeft(word, "-"), "=")
	e, known := f.words[strings.ReplaceAll(name, "_", "-")]
	if known || f.letters == nil || strings.HasPrefix(word, "--") {
		return f.apply(e, strings.TrimRight(word[:len(word)-len(value)], "="), value, joined)
	}
	for i := 1; i < len(word); i++ {
		e := f.letter(word[i])
		switch {
		case e == takesNext:
			f.next()
		case e == hasRest, word[i] == ':', word[i] == '=':
			return finding{}, false
		case e != flag:
			rest := word[i+1:]
			found, decides := f.apply(e, "-"+word[i:i+1], rest, rest != "")
			if decides || e != searched {
				return found, decides
			}
		}
	}
	return finding{}, false
}

func (f *finder) letter(c byte) effect {
	for e, letters := range f.letters {
		if strings.IndexByte(letters, c) >= 0 {
			return e
		}
	}
	return flag
}

// apply does what an option does. Its value is in its own word if joined, else in the next.
func (f *finder) apply(e effect, option, value string, joined bool) (found finding, decides bool) {
	switch e {
	case isProgram:
		return finding{what: option}, true
	case isArchive:
		f.archive = true
	case searched:
		f.searches = true
	case hasValue, isModule, isFile, isServer:
		if !joined {
			value, _ = f.next()
		}
		switch e {
		case isModule:
			return finding{what: strings.TrimSuffix("-m "+value, " ")}, true
		case isFile:
			return finding{what: value, file: value != ""}, true
		case isServer:
			f.otherwise = option
		}
	}
	return finding{}, false
}
