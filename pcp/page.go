package pcp

import (
	"bytes"
	"html/template"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// pageEvents is how many of the last events the page shows.
const pageEvents = 30

// StatusPage answers GET with a page for browsers: servers, members, addresses and
// events as this member knows them. It needs Member, Cluster, Observations and
// Watchdog of deps, asks nobody else, and gives no orders.
func StatusPage(deps Deps) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		state := deps.Cluster.State()
		data := pageData{
			Member: deps.Member, Now: time.Now(), State: state,
			Nodes:    Nodes(state, deps.Observations()),
			Watchdog: newWatchdog(deps.Watchdog(), state, nil),
			Events:   slices.Clone(state.Events[max(0, len(state.Events)-pageEvents):]),
		}
		slices.Reverse(data.Events)
		var page bytes.Buffer
		if err := pageTemplate.Execute(&page, data); err != nil {
			deps.Logger.Error("make status page", slog.Any("error", err))
			http.Error(w, "the page cannot be made", http.StatusInternalServerError)
			return
		}
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		_, _ = w.Write(page.Bytes())
	})
}

type pageData struct {
	Member   string
	Now      time.Time
	State    *cluster.State
	Nodes    []Node
	Watchdog Watchdog
	Events   []Event // newest first
}

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"stamp": func(t time.Time) string {
		if t.IsZero() {
			return "–"
		}
		return t.UTC().Format(time.DateTime)
	},
	"bytes": func(n *uint64) string {
		if n == nil {
			return "–"
		}
		return strconv.FormatUint(*n, 10)
	},
	"seconds": func(s *float64) string {
		if s == nil {
			return "–"
		}
		return strconv.FormatFloat(*s, 'f', 1, 64)
	},
	"timeline": func(t *uint32) string {
		if t == nil {
			return "–"
		}
		return strconv.FormatUint(uint64(*t), 10)
	},
}).Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width"><title>pgproxy {{.Member}}</title>
<style>
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1c2733}
table{border-collapse:collapse;width:100%;margin-bottom:1.5rem}
th{text-align:left;font-weight:600;border-bottom:2px solid #c8d0d8}td,th{padding:.25rem .8rem .25rem 0}
td{border-bottom:1px solid #e4e8ec}.n{text-align:right}.up,.leader,.follower{color:#18794e}
.down,.lost,.quarantine{color:#b42318;font-weight:600}.primary{font-weight:600}.bad{color:#b42318}
</style></head><body>
<h1>pgproxy {{.Member}}</h1>
<p>{{if .State.Primary}}Primary <b>{{.State.Primary}}</b>, timeline {{.State.Timeline}}{{else}}<b class="bad">No primary</b>{{end}}{{with .State.Operation}};
<b>{{.Kind}}</b> of {{.Old}} in phase {{.Phase}} since {{stamp .Since}}{{end}}{{if .State.FailoverOff}}; <b class="bad">failover is off</b>{{end}}{{with .State.Paused}};
<b class="bad">paused</b> since {{stamp .Since}} ({{.Reason}}){{end}}.
Epoch {{.State.Epoch}}; {{stamp .Now}} UTC.</p>
<h2>Servers</h2>
<table><tr><th>Name<th>Address<th>Status<th>Role<th class="n">Weight<th class="n">Timeline<th class="n">Lag, bytes<th class="n">Lag, s<th>Replication<th>Since (UTC)</tr>
{{range .Nodes}}<tr><td>{{.Name}}<td>{{.Address}}<td class="{{.Status}}">{{.Status}}<td class="{{.Role}}">{{.Role}}<td class="n">{{.Weight}}<td class="n">{{timeline .Timeline}}<td class="n">{{bytes .LagBytes}}<td class="n">{{seconds .LagSeconds}}<td>{{.ReplicationState}} {{.SyncState}}<td>{{stamp .Since}}</tr>
{{end}}</table>
<h2>Members</h2>
<p>{{if .Watchdog.Leader}}Leader <b>{{.Watchdog.Leader}}</b>{{else}}<b class="bad">No leader</b>{{end}}, term {{.Watchdog.Term}}, {{if .Watchdog.Quorum}}quorum{{else}}<b class="bad">no quorum</b>{{end}}.</p>
<table><tr><th>Name<th>Address<th>State<th>Holds</tr>
{{range .Watchdog.Members}}<tr><td>{{.Name}}<td>{{.Address}}<td class="{{.State}}">{{.State}}{{if .Witness}} (witness){{end}}<td>{{range .VIP}}{{.}} {{end}}</tr>
{{end}}</table>
<h2>Events</h2>
<table><tr><th>Time (UTC)<th>Server<th>What</tr>
{{range .Events}}<tr><td>{{stamp .At}}<td>{{.Backend}}<td>{{.Text}}</tr>
{{end}}</table></body></html>
`))
