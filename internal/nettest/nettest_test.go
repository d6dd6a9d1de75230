package nettest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// patience bounds what must happen; refusal is how long what must not happen is
// waited for.
const (
	patience = 10 * time.Second
	refusal  = 300 * time.Millisecond
)

func startPair(t *testing.T) (h1, h2 *Host) {
	t.Helper()
	l := StartLab(t, "h1=10.77.0.11/24,fd77::11/64", "h2=10.77.0.12/24,fd77::12/64")
	return l.Host("h1"), l.Host("h2")
}

// serve accepts and closes on the host until the test ends.
func serve(t *testing.T, h *Host, address string) {
	t.Helper()
	l, err := h.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
}

func dial(t *testing.T, from *Host, address string, timeout time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	conn, err := from.DialContext(ctx, "tcp", address)
	if err == nil {
		conn.Close()
	}
	return err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestHostsReachEachOther(t *testing.T) {
	h1, h2 := startPair(t)
	serve(t, h2, "10.77.0.12:5432")
	serve(t, h2, "[fd77::12]:5432")
	must(t, dial(t, h1, "10.77.0.12:5432", patience))
	must(t, dial(t, h1, "[fd77::12]:5432", patience))

	hw, err := h2.Hardware()
	must(t, err)
	neighbors, err := h1.Neighbors()
	must(t, err)
	found := map[string]string{}
	for _, n := range neighbors {
		found[n.IP.String()] = n.Hardware.String()
	}
	for _, ip := range []string{"10.77.0.12", "fd77::12"} {
		if found[ip] != hw.String() {
			t.Errorf("h1 has %q as hardware address of %s, want %s", found[ip], ip, hw)
		}
	}
}

func TestLabsOfEqualAddressesAreApart(t *testing.T) {
	_, h2 := startPair(t)
	serve(t, h2, "10.77.0.12:5432")
	other := StartLab(t, "h1=10.77.0.11/24")
	if err := dial(t, other.Host("h1"), "10.77.0.12:5432", refusal); err == nil {
		t.Error("a host reaches one of another lab")
	}
}

func TestCutAndCarrier(t *testing.T) {
	h1, h2 := startPair(t)
	serve(t, h2, "10.77.0.12:5432")
	carrier := func() (up bool) {
		must(t, h2.Do(func() error {
			link, err := netlink.LinkByName(eth)
			if err == nil {
				up = link.Attrs().RawFlags&syscall.IFF_RUNNING != 0
			}
			return err
		}))
		return up
	}
	for name, c := range map[string]struct {
		cut     func() error
		carrier bool
	}{
		"cut":  {h2.Cut, true},
		"pull": {func() error { return h2.Carrier(false) }, false},
	} {
		must(t, c.cut())
		if err := dial(t, h1, "10.77.0.12:5432", refusal); err == nil {
			t.Errorf("%s: the host is still reached", name)
		}
		if linked, err := h2.Linked(); linked || err != nil {
			t.Errorf("%s: linked %v (%v)", name, linked, err)
		}
		if carrier() != c.carrier {
			t.Errorf("%s: carrier is %v, want %v", name, !c.carrier, c.carrier)
		}
		must(t, h2.Heal())
		if linked, err := h2.Linked(); !linked || err != nil {
			t.Errorf("healed after %s: linked %v (%v)", name, linked, err)
		}
		must(t, dial(t, h1, "10.77.0.12:5432", patience))
	}
}

func TestCutFromLosesOneWay(t *testing.T) {
	h1, h2 := startPair(t)
	l := h1.lab
	_, err := l.Add("h3", "10.77.0.13/24")
	must(t, err)
	serve(t, h2, "10.77.0.12:5432")
	must(t, dial(t, h1, "10.77.0.12:5432", patience)) // ARP is known to both

	receiver := listenUDP(t, h2, "10.77.0.12:7")
	back := listenUDP(t, h1, "10.77.0.11:7")
	must(t, h2.CutFrom(h1, Out))
	send(t, h1, "10.77.0.12:7", "there")
	if got := receive(receiver, patience); got != "there" {
		t.Errorf("h2 received %q from h1, want %q: only the other way is cut", got, "there")
	}
	send(t, h2, "10.77.0.11:7", "back")
	if got := receive(back, refusal); got != "" {
		t.Errorf("h1 received %q from h2 over a cut way", got)
	}
	must(t, dial(t, l.Host("h3"), "10.77.0.12:5432", patience))

	must(t, h2.CutFrom(h1, Both))
	if err := dial(t, h1, "10.77.0.12:5432", refusal); err == nil {
		t.Error("h1 reaches h2 though both ways are cut")
	}
	must(t, h1.Heal())
	must(t, dial(t, h1, "10.77.0.12:5432", patience))
	if err := h1.CutFrom(h2, WayUnknown); err == nil {
		t.Error("a cut without a way is accepted")
	}
}

func listenUDP(t *testing.T, h *Host, address string) (conn net.PacketConn) {
	t.Helper()
	must(t, h.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", address)
		return err
	}))
	t.Cleanup(func() { conn.Close() })
	return conn
}

func send(t *testing.T, h *Host, to, text string) {
	t.Helper()
	conn, err := h.DialContext(t.Context(), "udp", to)
	must(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte(text))
	must(t, err)
}

func receive(conn net.PacketConn, timeout time.Duration) string {
	b := make([]byte, 64)
	_ = conn.SetReadDeadline(time.Now().Add(timeout))
	n, _, _ := conn.ReadFrom(b)
	return string(b[:n])
}

func TestCommandsRunOnTheHost(t *testing.T) {
	h1, _ := startPair(t)
	out, err := h1.Command(t.Context(), "ip", "-4", "-o", "addr", "show", "eth0").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "10.77.0.11/24") {
		t.Errorf("ip addr on h1: %v: %s", err, out)
	}

	cmd := exec.Command("sleep", "1000")
	must(t, h1.Start(cmd))
	pids, err := h1.Processes()
	must(t, err)
	if len(pids) != 1 || pids[0] != cmd.Process.Pid {
		t.Errorf("processes of h1: %v, want %d", pids, cmd.Process.Pid)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	must(t, h1.lab.Close())
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("Close has left a process")
	}
}

func TestAddressesAreTheKernels(t *testing.T) {
	h1, _ := startPair(t)
	if out, err := h1.Command(t.Context(), "ip", "addr", "add", "10.77.0.100/32", "dev", "eth0", "valid_lft", "60", "preferred_lft", "0").CombinedOutput(); err != nil {
		t.Fatalf("add address: %v: %s", err, out)
	}
	all, err := h1.Addresses()
	must(t, err)
	valid := map[string]time.Duration{}
	for _, a := range all {
		valid[a.Interface+" "+a.Prefix.String()] = a.Valid
	}
	if v, ok := valid["eth0 10.77.0.100/32"]; !ok || v <= 0 || v > time.Minute {
		t.Errorf("10.77.0.100 is valid for %s in %v, want up to a minute", v, valid)
	}
	if v, ok := valid["eth0 10.77.0.11/24"]; !ok || v != 0 {
		t.Errorf("10.77.0.11 is valid for %s in %v, want for ever", v, valid)
	}
	for ip, want := range map[string]bool{"10.77.0.100": true, "fd77::11": true, "10.77.0.12": false} {
		if has, err := h1.Has(ip); err != nil || has != want {
			t.Errorf("h1 has %s: %v (%v), want %v", ip, has, err, want)
		}
	}
}

func TestOpenFindsARunningLab(t *testing.T) {
	h1, h2 := startPair(t)
	serve(t, h2, "10.77.0.12:5432")
	opened, err := Open(h1.lab.Name())
	must(t, err)
	must(t, opened.Host("h2").Cut())
	if err := dial(t, h1, "10.77.0.12:5432", refusal); err == nil {
		t.Error("a cut by another process has no effect")
	}
	if _, err := Open("pgproxy-1-1"); err == nil {
		t.Error("a lab that never was is opened")
	}
}

func TestAddRootLinksThisMachine(t *testing.T) {
	h1, _ := startPair(t)
	serve(t, h1, "10.77.0.11:5432")
	name := fmt.Sprintf("pgt%d", os.Getpid())
	// TEST-NET-3 (RFC 5737), so that a machine of 10.77.0.0/24 can run this.
	l := StartLab(t, "h9=203.0.113.9/24")
	serve(t, l.Host("h9"), "203.0.113.9:5432")
	must(t, l.AddRoot(name, "203.0.113.1/24"))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", "203.0.113.9:5432")
	must(t, err)
	conn.Close()
	if err := h1.lab.AddRoot(name+"x", "203.0.113.2/25"); err == nil {
		t.Error("a second link into the same network is made")
	}
	must(t, l.Close())
	if _, err := netlink.LinkByName(name); err == nil {
		t.Error("Close has left the machine's interface")
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	h1, _ := startPair(t)
	l := h1.lab
	must(t, l.Close())
	must(t, l.Close())
	left, err := filepath.Glob(filepath.Join(namespaces, l.Name()+"*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}

// What a process that was killed has left, processes too, the next lab removes.
func TestNewRemovesWhatTheDeadHaveLeft(t *testing.T) {
	dead := exec.Command("true")
	must(t, dead.Run())
	name := fmt.Sprintf("%s%d-1-h1", prefix, dead.Process.Pid)
	must(t, makeNamespace(name))
	path := filepath.Join(namespaces, name)
	cmd := exec.Command("nsenter", "--net="+path, "--", "sleep", "1000")
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for deadline := time.Now().Add(patience); ; { // nsenter takes its time to enter
		pids, err := processesIn(path)
		must(t, err)
		if len(pids) > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("sleep does not show up in the namespace")
		}
	}
	StartLab(t)
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("its process still runs")
	}
	if _, err := os.Lstat(path); err == nil {
		t.Errorf("%s is still there", path)
	}
}

func TestAddRefusesWhatCannotBe(t *testing.T) {
	l := StartLab(t, "h1=10.77.0.11/24")
	for name, addresses := range map[string][]string{
		"":               {"10.77.0.12/24"},
		"a/b":            {"10.77.0.12/24"},
		"switch":         {"10.77.0.12/24"},
		"a-name-of-14-b": {"10.77.0.12/24"},
		"h1":             {"10.77.0.12/24"},
		"h2":             {"10.77.0.12.1"},
	} {
		if _, err := l.Add(name, addresses...); err == nil {
			t.Errorf("host %q with %v is added", name, addresses)
		}
	}
	if _, err := l.Host("h1").DialContext(t.Context(), "tcp", "localhost:5432"); err == nil {
		t.Error("a name is dialled")
	}
}
