package main

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// secretLength is the length of a new secret in bytes: as long as the keys that are
// derived from it.
const secretLength = 32

// keygenCommand prints a new secret, on one line as secret files have it.
type keygenCommand struct {
	Stdout io.Writer
}

func newKeygenCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "keygen",
		Short: "Print a new secret for watchdog.secret_file",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := keygenCommand{Stdout: cmd.OutOrStdout()}
			return c.Run()
		},
	}
}

// Run prints the secret.
func (c *keygenCommand) Run() error {
	var secret [secretLength]byte
	rand.Read(secret[:]) // never fails; it ends the program instead (crypto/rand)
	if _, err := fmt.Fprintln(c.Stdout, base64.StdEncoding.EncodeToString(secret[:])); err != nil {
		return fmt.Errorf("print secret: %w", err)
	}
	return nil
}
