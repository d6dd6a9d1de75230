package main

import "github.com/spf13/cobra"

// commands returns what pgproxy can do, in the order of its help.
func commands() []*cobra.Command {
	return []*cobra.Command{
		newRunCobraCommand(),
		newCheckCommand(),
		newDemoCommand(),
		newSetupSQLCommand(),
		newKeygenCommand(),
		newVersionCommand(),
	}
}
