package vip

import (
	"strings"
	"testing"
)

func TestNewRefuses(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Interface: "eth0"}, "vip[0].address: missing"},
		{Config{Address: "10.77.0.100", Interface: "eth0"}, `vip[0].address: want an address with the length of its prefix such as 10.0.0.5/24, got "10.77.0.100"`},
		{Config{Address: "0.0.0.0/24", Interface: "eth0"}, `"0.0.0.0/24" is unspecified`},
		{Config{Address: "::/64", Interface: "eth0"}, `"::/64" is unspecified`},
		{Config{Address: "224.0.0.5/24", Interface: "eth0"}, "is not the address of one host"},
		{Config{Address: "ff02::5/64", Interface: "eth0"}, "is not the address of one host"},
		{Config{Address: "127.0.0.5/8", Interface: "eth0"}, "is a loopback address"},
		{Config{Address: "fe80::5/64", Interface: "eth0"}, "is link-local"},
		{Config{Address: "::ffff:10.0.0.5/120", Interface: "eth0"}, "write it as IPv4"},
		{Config{Address: "10.0.0.5/0", Interface: "eth0"}, "prefix of length 0"},
		{Config{Address: "10.77.0.0/24", Interface: "eth0"}, "is the address of its network"},
		{Config{Address: "10.77.0.255/24", Interface: "eth0"}, "is the broadcast address"},
		{Config{Address: text4}, "vip[0].interface: missing"},
		{Config{Address: text4, Interface: "a-very-long-interface"}, `vip[0].interface: "a-very-long-interface" cannot be the name of an interface`},
		{Config{Address: text4, Interface: "eth0", Mode: "l2"}, `vip[0].mode: want one of layer2, layer3, hooks, got "l2"`},
		{Config{Address: text4, Interface: "eth0", Mode: ModeHooks}, "vip[0].mode: hooks needs a command in up"},
		{Config{Address: text4, Interface: "eth0", Check: []string{"10.77.0.1", "gw"}}, `vip[0].check[1]: want the address of a gateway such as 10.0.0.1, got "gw"`},
		{Config{Address: text4, Interface: "eth0", Check: []string{"fd00::1"}}, `vip[0].check[0]: "fd00::1" is not of the family of "10.77.0.100/24"`},
		{Config{Address: text4, Interface: "eth0", Check: []string{vip4}}, "is the virtual address itself"},
		{Config{Address: text4, Interface: "eth0", Up: []string{""}}, "vip[0].up: the command is empty"},
	} {
		if _, err := New([]Config{c.cfg}, Deps{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: want an error with %q, got %v", c.cfg, c.want, err)
		}
	}
	_, err := New([]Config{eth4, {Address: "10.77.0.100/25", Interface: "eth1"}}, Deps{})
	if want := `vip[1].address: "10.77.0.100" is that of vip[0] already`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("want an error with %q, got %v", want, err)
	}
}
