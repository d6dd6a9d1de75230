package pcp

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\n%s\nwant:\n%s", name, got, want)
	}
}

// raw asks without the client.
func (f *fixture) raw(method, path, body string) (status int, answer string) {
	f.Helper()
	socket := f.address("unix").String()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(f.Context(), method, "http://pgproxy"+path, strings.NewReader(body))
	if err != nil {
		f.Fatal(err)
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		f.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		f.Fatal(err)
	}
	return res.StatusCode, string(data)
}

// TestAnswers holds the names of the contract: tools read them.
func TestAnswers(t *testing.T) {
	f := newFixture(t)
	f.apply(cluster.Command{Kind: cluster.KindRecover, Backend: "h2", Reason: "ordered by root"})
	rebuilding := cluster.Local{Server: cluster.ServerBusy, Task: "rebuild", Progress: 0.5, Detail: "1.0 of 2.0 GB"}
	f.local("h2", rebuilding)
	f.report("h3", func(r *cluster.Reported) { r.Differs = "backends" })
	f.start()
	for _, what := range []string{"nodes", "watchdog", "health", "pools", "sessions", "events"} {
		status, answer := f.raw("GET", "/v1/"+what, "")
		var indented bytes.Buffer
		if err := json.Indent(&indented, []byte(answer), "", "  "); err != nil || status != http.StatusOK {
			t.Errorf("%s: status %d, %v, %s", what, status, err, answer)
			continue
		}
		golden(t, what+".json", indented.String())
	}
}

// TestAnswersOfALoneMember: nobody observes, reports or holds anything yet.
func TestAnswersOfALoneMember(t *testing.T) {
	f := newFixture(t)
	f.deps.Cluster = cluster.NewLog(cluster.State{})
	f.deps.Observations = func() map[string]cluster.Observation { return nil }
	f.deps.Watchdog = func() WatchdogStatus { return WatchdogStatus{} }
	f.deps.Reports = func(context.Context) (map[string]cluster.Reported, error) { return nil, context.DeadlineExceeded }
	f.deps.Pools = func() []Pool { return nil }
	f.deps.Sessions = func() []Session { return nil }
	f.start()
	for _, what := range []string{"nodes", "health", "pools", "sessions", "events"} {
		if status, answer := f.raw("GET", "/v1/"+what, ""); status != http.StatusOK || answer != "[]\n" {
			t.Errorf("%s: %d %q, want an empty array", what, status, answer)
		}
	}
	want := `{"leader":"","term":0,"quorum":false,"failover":true,"paused":null,"members":[]}` + "\n"
	if status, answer := f.raw("GET", "/v1/watchdog", ""); status != http.StatusOK || answer != want {
		t.Errorf("watchdog: %d %q, want %q", status, answer, want)
	}
}

// TestNodesOfAnotherServer: an observation of an address that the backend has not
// any more says nothing about it.
func TestNodesOfAnotherServer(t *testing.T) {
	f := newFixture(t)
	observed := testObservations()
	o := observed["h2"]
	o.Address = "10.77.0.99:5432"
	observed["h2"] = o
	n := Nodes(f.log.State(), observed)[1]
	if n.Timeline != nil || n.LagBytes != nil || n.ReplicationState != "" || n.Status != "up" {
		t.Errorf("%+v", n)
	}
	// On another timeline a distance in bytes means nothing.
	o.Address, o.Timeline = "10.77.0.12:5432", 2
	observed["h2"] = o
	if n := Nodes(f.log.State(), observed)[1]; n.LagBytes != nil || n.LagSeconds != nil || n.Timeline == nil || *n.Timeline != 2 {
		t.Errorf("%+v", n)
	}
}

func TestBadRequests(t *testing.T) {
	f := newFixture(t)
	f.start()
	tests := []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/", "", 404, "unknown request GET /"},
		{"GET", "/v1/levitate", "", 404, "unknown request GET /v1/levitate"},
		{"GET", "/v1/", "", 404, "unknown request GET /v1/"},
		{"GET", "/nodes", "", 404, "unknown request GET /nodes"},
		{"GET", "/v1/attach", "", 404, "unknown request GET /v1/attach"},
		{"DELETE", "/v1/nodes", "", 404, "unknown request DELETE /v1/nodes"},
		{"POST", "/v1/nodes", "", 404, "unknown request POST /v1/nodes"},
		{"POST", "/v1/attach", "", 400, "the request is malformed: EOF"},
		{"POST", "/v1/attach", "{}", 400, "node of 0 bytes, want 1 to 255"},
		{"POST", "/v1/attach", `{"node":"h2"} {}`, 400, "the request is malformed: something follows its end"},
		{"POST", "/v1/attach", `{"node":"h2","gently":true}`, 400, `the request is malformed: json: unknown field "gently"`},
		{"POST", "/v1/attach", `{"node":"h2","in_place":true}`, 400, "in_place belongs to recover"},
		{"POST", "/v1/attach", `{"node":"` + strings.Repeat("h", 256) + `"}`, 400, "node of 256 bytes, want 1 to 255"},
		{"POST", "/v1/attach", `{"node":"h2\u001b[2J"}`, 400, `node "h2\x1b[2J" has characters that cannot be printed`},
		{"POST", "/v1/failover", `{}`, 400, "on is missing"},
		{"POST", "/v1/watchdog/add", `{"name":"h9"}`, 400, "address of 0 bytes, want 1 to 255"},
		{"POST", "/v1/watchdog/add", `{"name":"h9","address":"h9"}`, 400, `address "h9" is not host:port`},
		{"POST", "/v1/watchdog/add", `{"name":"h9","address":":9000"}`, 400, `address ":9000" is not host:port`},
		{"POST", "/v1/watchdog/add", `{"name":"h9","address":"h9:0"}`, 400, `address "h9:0" is not host:port`},
		{"POST", "/v1/vip/move", `{}`, 400, "address of 0 bytes, want 1 to 255 member of 0 bytes, want 1 to 255"},
		{"POST", "/v1/kill", `{"session":-1}`, 400, "the request is malformed: json: cannot unmarshal number -1 into Go struct field killOrder.session of type uint64"},
		{"POST", "/v1/stop", `{"now":true}`, 400, `the request is malformed: json: unknown field "now"`},
		{"POST", "/v1/detach", strings.Repeat(" ", maxBody+1), 413, "the request is longer than 65536 bytes"},
	}
	before := f.log.State().Epoch
	for _, tt := range tests {
		status, answer := f.raw(tt.method, tt.path, tt.body)
		var l line
		if err := json.Unmarshal([]byte(answer), &l); err != nil {
			t.Errorf("%s %s: %v in %q", tt.method, tt.path, err, answer)
		}
		if status != tt.status || l.Error != tt.want {
			t.Errorf("%s %s %.60s: %d %q, want %d %q", tt.method, tt.path, tt.body, status, l.Error, tt.status, tt.want)
		}
	}
	if f.log.State().Epoch != before || f.stopped.Load() {
		t.Error("a bad request has changed something")
	}
}

// FuzzRequest: whatever comes is answered with JSON, and what is not an order of
// the contract changes nothing.
func FuzzRequest(f *testing.F) {
	f.Add("attach", []byte(`{"node":"h2"}`))
	f.Add("detach", []byte(`{"node":"h2"}`))
	f.Add("failover", []byte(`{"on":false}`))
	f.Add("vip/move", []byte(`{"address":"10.77.0.100","member":"h2"}`))
	f.Add("watchdog/add", []byte(`{"name":"h4","address":"h4:9000","witness":true}`))
	f.Add("watchdog/remove", []byte(`{"name":"h3"}`))
	f.Add("kill", []byte(`{"session":7}`))
	f.Add("promote", []byte(`{"node":"h1"}`))
	f.Add("recover", []byte(`{"node":"h1","in_place":true}`))
	f.Fuzz(func(t *testing.T, verb string, body []byte) {
		if strings.ContainsFunc(verb, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("%?#", r) }) {
			return // no path of a request
		}
		fx := newFixture(t)
		fx.deps.Reports = func(context.Context) (map[string]cluster.Reported, error) { return nil, context.DeadlineExceeded }
		s, err := New(fx.cfg, fx.deps)
		if err != nil {
			t.Fatal(err)
		}
		before := *fx.log.State()
		// Streams end at once: their client is gone.
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), peerKey{}, peer{uid: 0, known: true}))
		cancel()
		r := httptest.NewRequestWithContext(ctx, "POST", "/v1/"+verb, bytes.NewReader(body))
		w := httptest.NewRecorder()
		s.handler().ServeHTTP(w, r)
		for _, l := range strings.Split(strings.TrimSpace(w.Body.String()), "\n") {
			var got line
			if err := json.Unmarshal([]byte(l), &got); err != nil {
				t.Fatalf("%s %q: %v in %q", verb, body, err, l)
			}
		}
		if after := fx.log.State(); w.Code != http.StatusOK && after.Epoch != before.Epoch {
			t.Fatalf("%s %q: status %d, and the state has changed", verb, body, w.Code)
		}
	})
}

var stamps = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC`)

func TestStatusPage(t *testing.T) {
	f := newFixture(t)
	f.apply(cluster.Command{
		Kind: cluster.KindBegin, Backend: "h1", Operation: cluster.Failover, Reason: "<script>alert(1)</script>",
	})
	w := httptest.NewRecorder()
	StatusPage(f.deps).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
		t.Errorf("status %d, %v", w.Code, w.Header())
	}
	golden(t, "page.html", stamps.ReplaceAllString(w.Body.String(), "NOW UTC"))
}
