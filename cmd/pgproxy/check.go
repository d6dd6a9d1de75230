package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgproxy/pgproxy/configs"
	"github.com/pgproxy/pgproxy/pcp"
	"github.com/pgproxy/pgproxy/proxy/auth"
)

// checkCommand tells everything that is wrong with a configuration file and with the
// files that it names. It connects to nothing but the pgproxy that may run here.
type checkCommand struct {
	ConfigFile string
	Stdout     io.Writer
	Stderr     io.Writer
}

func newCheckCommand() *cobra.Command {
	var c checkCommand
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check a configuration file and the files that it names",
		Long: `Check a configuration file and the files that it names, and print every fault with its
line. Where a pgproxy runs on this host that has the same pcp section, print also which keys
differ from what it has in force, and which of them need a restart.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Stdout, c.Stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return c.Run(cmd.Context())
		},
	}
	cmd.Flags().StringVarP(&c.ConfigFile, "config", "c", "", "the configuration file (required)")
	return cmd
}

// Run prints the warnings to Stderr and "FILE: ok" to Stdout, or returns the faults.
// Where a pgproxy runs on this host it prints how the file differs from what that one
// has in force, too.
func (c *checkCommand) Run(ctx context.Context) error {
	f, err := readConfig(c.ConfigFile)
	if err != nil {
		return err
	}
	for _, w := range f.Warnings {
		fmt.Fprintf(c.Stderr, "warning: %v\n", w)
	}
	if len(f.Faults) > 0 {
		return f.Faults
	}
	text := c.ConfigFile + ": ok\n"
	running, err := askRunning(ctx, f.Config)
	switch {
	case err != nil:
		fmt.Fprintf(c.Stderr, "warning: the pgproxy that runs was not asked how it differs: %v\n", err)
	case running != nil:
		text += comparison(running, f.Config)
	}
	if _, err := io.WriteString(c.Stdout, text); err != nil {
		return fmt.Errorf("print result: %w", err)
	}
	return nil
}

// askTimeout bounds the question to a pgproxy that runs.
const askTimeout = 5 * time.Second

// askRunning asks the pgproxy that has the operator's interface which the file names;
// nil: none runs.
func askRunning(ctx context.Context, cfg *configs.Config) (*pcp.Running, error) {
	target := pcp.Target{Socket: cfg.PCP.UnixSocket}
	if target.Socket == "" {
		host, port, err := net.SplitHostPort(cfg.PCP.Listen)
		n, _ := strconv.Atoi(port) // 0, which nobody listens on, where there is none
		if target.TokenFile = cfg.PCP.TokenFile; cfg.Watchdog != nil {
			target.TokenFile, target.SecretFile = "", cfg.Watchdog.SecretFile
		}
		if err != nil || n == 0 || target.SecretFile == "" && target.TokenFile == "" {
			return nil, nil
		}
		if target.Host, target.Port = host, n; host == "*" {
			target.Host = "localhost"
		}
	}
	client, err := pcp.NewClient(target)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	running, err := client.Running(ctx)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, nil
	}
	return &running, err
}

// comparison says how a file differs from what a pgproxy has in force.
func comparison(running *pcp.Running, cfg *configs.Config) string {
	changed, restart := configs.Differ(running.Keys, configs.KeysOf(cfg))
	if len(changed) == 0 {
		return fmt.Sprintf("%s runs with it\n", running.Member)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s runs with another configuration; what differs counts after\n", running.Member)
	for _, path := range changed {
		needs := "a reload"
		if slices.Contains(restart, path) {
			needs = "a restart"
		}
		fmt.Fprintf(&b, "  %-10s %s\n", needs, path)
	}
	return b.String()
}

// loaded is a configuration file with its content.
type loaded struct {
	*configs.File
	data []byte
}

// readConfig reads and checks a configuration file and the files that it names. The
// error is about the file as such; what is wrong in it stands in the result.
func readConfig(path string) (*loaded, error) {
	if path == "" {
		return nil, usageError{errors.New("which file? use -c FILE")}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	f := &loaded{File: configs.Parse(path, data), data: data}
	if f.Config != nil {
		checkFiles(f.File)
	}
	return f, nil
}

// checkFiles opens the files that the configuration names and adds what is wrong with
// them to f.Faults.
func checkFiles(f *configs.File) {
	c := f.Config
	secret := func(path, file string) {
		if file == "" {
			return
		}
		if _, err := configs.ReadSecret(file); err != nil {
			f.AddFault(path, "%v", err)
		}
	}
	secret("monitor.password_file", c.Monitor.PasswordFile)
	secret("pcp.token_file", c.PCP.TokenFile)
	if c.Watchdog != nil {
		secret("watchdog.secret_file", c.Watchdog.SecretFile)
	}
	if c.Agent != nil {
		secret("agent.replication.password_file", c.Agent.Replication.PasswordFile)
	}
	checkKeyPair(f, "listen.tls", c.Listen.TLS.CertFile, c.Listen.TLS.KeyFile)
	checkAuthorities(f, "listen.tls.client_ca_file", c.Listen.TLS.ClientCAFile)
	checkKeyPair(f, "backend_tls", c.BackendTLS.CertFile, c.BackendTLS.KeyFile)
	checkAuthorities(f, "backend_tls.ca_file", c.BackendTLS.CAFile)

	hba, err := openHBA(c.Auth.HBAFile)
	if err != nil {
		addEach(f, "auth.hba_file", err)
	}
	var passwords *auth.Passfile
	if c.Auth.PasswordFile != "" {
		if passwords, err = auth.LoadPassfile(c.Auth.PasswordFile); err != nil {
			addEach(f, "auth.password_file", err)
			return
		}
	}
	if hba == nil {
		return
	}
	backends := make([]string, len(c.Backends))
	for i, b := range c.Backends {
		backends[i] = b.Address
	}
	// No fault: the backends may trust this host.
	for _, lack := range hba.LackPasswords(passwords, backends) {
		f.AddWarning("auth.hba_file", "%v", lack)
	}
}

// openHBA returns the built-in rules where no file is named.
func openHBA(path string) (*auth.HBA, error) {
	if path == "" {
		return auth.DefaultHBA(), nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return auth.ParseHBA(file, path)
}

func checkKeyPair(f *configs.File, section, cert, key string) {
	if cert == "" || key == "" {
		return // where only one is missing, validation has said so
	}
	file, err := configs.OpenSecret(key)
	if err != nil {
		f.AddFault(section+".key_file", "%v", err)
		return
	}
	file.Close()
	if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
		f.AddFault(section+".cert_file", "%v", err)
	}
}

func checkAuthorities(f *configs.File, path, file string) {
	if file == "" {
		return
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		f.AddFault(path, "%v", err)
		return
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		f.AddFault(path, "%s holds no certificate", file)
	}
}

// addEach adds one fault per joined error.
func addEach(f *configs.File, path string, err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			f.AddFault(path, "%v", e)
		}
		return
	}
	f.AddFault(path, "%v", err)
}
