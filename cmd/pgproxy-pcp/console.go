package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/pgproxy/pgproxy/pcp"
)

// console is what all commands share: whom they ask and how they answer.
type console struct {
	out    io.Writer
	target pcp.Target
	format string
}

// The output formats.
const (
	formatTable = "table"
	formatJSON  = "json"
)

func (c *console) flags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&c.target.Socket, "socket", pcp.DefaultSocket, "Unix socket of the member on this host (pcp.unix_socket)")
	f.StringVar(&c.target.Host, "host", "", "ask the member on this host over TLS; default with --port: localhost")
	f.IntVar(&c.target.Port, "port", pcp.DefaultPort, "port of --host (pcp.listen)")
	f.StringVar(&c.target.SecretFile, "secret-file", pcp.DefaultSecretFile, "with --host: file with the members' secret (watchdog.secret_file)")
	f.StringVar(&c.target.TokenFile, "token-file", "", "with --host: file with the operators' token (pcp.token_file), instead of the secret")
	f.StringVarP(&c.format, "output", "o", formatTable, "table or json")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return c.check(cmd.Flags().Changed) }
}

// check refuses flags that do not go together, and makes the target whole.
func (c *console) check(given func(flag string) bool) error {
	remote := given("host") || given("port")
	switch {
	case c.format != formatTable && c.format != formatJSON:
		return usage("output %q, want table or json", c.format)
	case remote && given("socket"):
		return usage("--socket is this host's; --host and --port go without it")
	case given("secret-file") && given("token-file"):
		return usage("--secret-file and --token-file exclude each other")
	case !remote && (given("secret-file") || given("token-file")):
		return usage("--secret-file and --token-file belong to --host")
	case given("host") && c.target.Host == "" || given("socket") && c.target.Socket == "":
		return usage("--host and --socket must not be empty")
	case c.target.Port < 1 || c.target.Port > 65535:
		return usage("port %d, want 1 to 65535", c.target.Port)
	}
	if remote {
		c.target.Socket = ""
		if c.target.Host == "" {
			c.target.Host = "localhost"
		}
	}
	return nil
}

// client makes the client that the flags describe.
func (c *console) client() (*pcp.Client, error) { return pcp.NewClient(c.target) }

func (c *console) json() bool { return c.format == formatJSON }

// print writes lines.
func (c *console) print(text string) error {
	if _, err := io.WriteString(c.out, text); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// value writes one JSON value, readable unless it is one line of many.
func (c *console) value(v any, indent string) error {
	e := json.NewEncoder(c.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// done writes the sentence that an order ended with.
func (c *console) done(sentence string) error {
	if c.json() {
		return c.value(map[string]string{"done": sentence}, "")
	}
	return c.print(sentence + "\n")
}

// file returns standard output when it is a file, or nil.
func (c *console) file() *os.File {
	f, _ := c.out.(*os.File)
	return f
}
