package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/pgproxy/pgproxy/configs"
	"github.com/pgproxy/pgproxy/proxy/auth"
)

// checkCommand tells everything that is wrong with a configuration file and with the
// files that it names. It connects to nothing.
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
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Stdout, c.Stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return c.Run(cmd.Context())
		},
	}
	cmd.Flags().StringVarP(&c.ConfigFile, "config", "c", "", "the configuration file (required)")
	return cmd
}

// Run prints the warnings to Stderr and "FILE: ok" to Stdout, or returns the faults.
func (c *checkCommand) Run(context.Context) error {
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
	if _, err := fmt.Fprintf(c.Stdout, "%s: ok\n", c.ConfigFile); err != nil {
		return fmt.Errorf("print result: %w", err)
	}
	return nil
}

// readConfig reads and checks a configuration file and the files that it names. The
// error is about the file as such; what is wrong in it stands in the result.
func readConfig(path string) (*configs.File, error) {
	if path == "" {
		return nil, usageError{errors.New("which file? use -c FILE")}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	f := configs.Parse(path, data)
	if f.Config != nil {
		checkFiles(f)
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
