package fragment

import (
	"path"
	"strings"

	"era/tools/build"
)

// Packages that a name stands for where it is that of several.
var preferred = map[string]string{
	"json": "encoding/json", "rand": "math/rand", "template": "text/template", "scanner": "text/scanner",
	"http": "net/http", "url": "net/url", "exec": "os/exec", "list": "container/list",
	"pprof": "runtime/pprof", "trace": "runtime/trace", "types": "go/types", "parser": "go/parser",
}

// packageOf returns the package of the standard library that a name stands for, or "".
func packageOf(std *build.Std, name string) string {
	if name == "unsafe" { // which is no file
		return name
	}
	if found := preferred[name]; found != "" {
		return found
	}
	best := ""
	for _, candidate := range std.Paths() {
		if path.Base(candidate) != name || strings.HasPrefix(candidate, "cmd/") {
			continue
		}
		if best == "" || len(candidate) < len(best) || len(candidate) == len(best) && candidate < best {
			best = candidate
		}
	}
	return best
}
