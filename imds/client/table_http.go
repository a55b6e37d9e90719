package client

const (
	howV2Works = "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-v2-how-it-works.html"
	retrieval  = "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html"
)

// plain are clients of HTTP in general. What they send is up to the program that uses them.
var plain = []Row{
	{
		Name: "curl", Kind: HTTP, Title: "curl", Products: []Product{{Name: "curl"}},
		Executables: []string{"curl"}, Packages: []string{"curl", "curl-minimal"}, Family: "native", Support: Plain,
		Link: retrieval, Source: "https://curl.se/docs/manpage.html", Example: "curl/7.61.1",
	},
	{
		Name: "busybox", Kind: HTTP, Title: "Busybox", Products: []Product{{Name: "wget", Bare: true}},
		Executables: []string{"busybox", "busybox.static"}, Packages: []string{"busybox", "busybox-static"}, Family: "native", Support: Plain,
		Fix:  "use curl or GNU wget (1.15 or later) for it, or an image that has one: the wget of Busybox cannot send the PUT that fetches a token",
		Link: retrieval, Source: "https://busybox.net/downloads/BusyBox.html",
		Note: "With a token that something else fetched it can call by v2 (`--header`).", Example: "Wget",
	},
	{
		Name: "wget", Kind: HTTP, Title: "wget", Products: []Product{{Name: "wget"}},
		Executables: []string{"wget"}, Packages: []string{"wget"}, Family: "native", Support: Plain,
		Link: retrieval, Source: "https://www.gnu.org/software/wget/manual/wget.html",
		Note: "It can send a PUT from 1.15 on.", Example: "Wget/1.14 (linux-gnu)",
	},
	{
		Name: "httpie", Kind: HTTP, Title: "HTTPie", Products: []Product{{Name: "httpie"}}, Scripts: []string{"http"},
		Family: "python", Support: Plain, Link: retrieval, Source: "https://httpie.io/docs/cli", Example: "HTTPie/3.2.1",
	},
	{
		Name: "python-requests", Kind: HTTP, Title: "Python requests", Products: []Product{{Name: "python-requests"}},
		Modules: []Module{{Ecosystem: PyPI, Name: "requests"}}, Family: "python", Support: Plain,
		Link: howV2Works, Source: "https://requests.readthedocs.io/en/latest/api/", Example: "python-requests/2.28.1",
	},
	{
		Name: "python-urllib", Kind: HTTP, Title: "Python urllib", Products: []Product{{Name: "python-urllib", NoVersion: true}},
		Family: "python", Support: Plain, Link: howV2Works, Source: "https://docs.python.org/3/library/urllib.request.html",
		Note: "Boto 2 says the same.", Example: "Python-urllib/2.7",
	},
	{
		Name: "python-urllib3", Kind: HTTP, Title: "Python urllib3", Products: []Product{{Name: "python-urllib3"}},
		Modules: []Module{{Ecosystem: PyPI, Name: "urllib3"}}, Family: "python", Support: Plain,
		Link: howV2Works, Source: "https://urllib3.readthedocs.io/en/stable/", Example: "python-urllib3/1.26.12",
	},
	{
		Name: "python-httpx", Kind: HTTP, Title: "Python HTTPX", Products: []Product{{Name: "python-httpx"}},
		Modules: []Module{{Ecosystem: PyPI, Name: "httpx"}}, Family: "python", Support: Plain,
		Link: howV2Works, Source: "https://www.python-httpx.org/", Example: "python-httpx/0.23.0",
	},
	{
		Name: "aiohttp", Kind: HTTP, Title: "Python aiohttp", Products: []Product{{Name: "aiohttp"}},
		Modules: []Module{{Ecosystem: PyPI, Name: "aiohttp"}}, Family: "python", Support: Plain,
		Link: howV2Works, Source: "https://docs.aiohttp.org/en/stable/client_reference.html", Example: "Python/3.9 aiohttp/3.8.3",
	},
	{
		Name: "go-http", Kind: HTTP, Title: "Go net/http", Products: []Product{{Name: "go-http-client", NoVersion: true}},
		Family: "native", Support: Plain, Link: howV2Works, Source: "https://pkg.go.dev/net/http", Example: "Go-http-client/1.1",
	},
	{
		Name: "java-http", Kind: HTTP, Title: "Java HTTP client",
		Products: []Product{{Name: "java", NoVersion: true}, {Name: "java-http-client", NoVersion: true}},
		Family:   "java", Support: Plain, Link: howV2Works,
		Source: "https://docs.oracle.com/javase/8/docs/api/java/net/HttpURLConnection.html", Example: "Java/1.8.0_202",
	},
	{
		Name: "apache-httpclient", Kind: HTTP, Title: "Apache HttpClient", Products: []Product{{Name: "apache-httpclient"}},
		Modules: []Module{{Ecosystem: Maven, Name: "httpclient"}, {Ecosystem: Maven, Name: "httpclient5"}}, Family: "java", Support: Plain,
		Link: howV2Works, Source: "https://hc.apache.org/", Example: "Apache-HttpClient/4.5.13 (Java/1.8.0_202)",
	},
	{
		Name: "okhttp", Kind: HTTP, Title: "OkHttp", Products: []Product{{Name: "okhttp"}},
		Modules: []Module{{Ecosystem: Maven, Name: "okhttp"}}, Family: "java", Support: Plain,
		Link: howV2Works, Source: "https://square.github.io/okhttp/", Example: "okhttp/3.14.9",
	},
	{
		Name: "ruby-http", Kind: HTTP, Title: "Ruby Net::HTTP", Products: []Product{{Name: "ruby", NoVersion: true}},
		Family: "ruby", Support: Plain, Link: howV2Works, Source: "https://docs.ruby-lang.org/en/master/Net/HTTP.html", Example: "Ruby",
	},
	{
		Name: "perl-lwp", Kind: HTTP, Title: "Perl LWP or HTTP::Tiny",
		Products: []Product{{Name: "libwww-perl"}, {Name: "lwp-request"}, {Name: "http-tiny"}}, Family: "perl", Support: Plain,
		Link: howV2Works, Source: "https://metacpan.org/pod/LWP::UserAgent", Example: "libwww-perl/6.68",
	},
	{
		Name: "node-http", Kind: HTTP, Title: "Node.js HTTP library",
		Products: []Product{{Name: "axios"}, {Name: "node-fetch"}, {Name: "undici", NoVersion: true}, {Name: "got"}}, Family: "node", Support: Plain,
		Link: howV2Works, Source: "https://nodejs.org/api/http.html", Example: "axios/0.21.1",
	},
	{
		Name: "powershell", Kind: HTTP, Title: "PowerShell",
		Products: []Product{{Name: "windowspowershell"}, {Name: "powershell"}}, Executables: []string{"pwsh"}, Family: "dotnet", Support: Plain,
		Link: retrieval, Source: "https://learn.microsoft.com/en-us/powershell/module/microsoft.powershell.utility/invoke-webrequest",
		Example: "Mozilla/5.0 (Windows NT; Windows NT 10.0; en-US) WindowsPowerShell/5.1.17763.316",
	},
}

// runtimes stand for a program of which only the interpreter is known.
var runtimes = []Row{
	{Name: "python", Kind: Runtime, Title: "a Python program", Family: "python", Support: Plain, Link: howV2Works, Source: "https://docs.python.org/3/using/cmdline.html"},
	{Name: "node", Kind: Runtime, Title: "a Node.js program", Family: "node", Support: Plain, Link: howV2Works, Source: "https://nodejs.org/api/cli.html"},
	{Name: "java", Kind: Runtime, Title: "a Java program", Family: "java", Support: Plain, Link: howV2Works, Source: "https://docs.oracle.com/en/java/javase/21/docs/specs/man/java.html"},
	{Name: "ruby", Kind: Runtime, Title: "a Ruby program", Family: "ruby", Support: Plain, Link: howV2Works, Source: "https://docs.ruby-lang.org/en/master/"},
	{Name: "php", Kind: Runtime, Title: "a PHP program", Family: "php", Support: Plain, Link: howV2Works, Source: "https://www.php.net/manual/en/features.commandline.php"},
	{Name: "perl", Kind: Runtime, Title: "a Perl program", Family: "perl", Support: Plain, Link: howV2Works, Source: "https://perldoc.perl.org/perlrun"},
	{Name: "dotnet", Kind: Runtime, Title: "a .NET program", Family: "dotnet", Support: Plain, Link: howV2Works, Source: "https://learn.microsoft.com/en-us/dotnet/core/tools/dotnet"},
	{Name: "shell", Kind: Runtime, Title: "a shell script", Family: "shell", Support: Plain, Link: retrieval, Source: "https://www.gnu.org/software/bash/manual/bash.html"},
}
