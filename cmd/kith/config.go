package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/fault"
)

// configVerb checks and shows the configuration of processes.
func (a *app) configVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use: "config", Short: "check and show kith.yaml; schemas of files for editors", Args: noSuchVerb, RunE: helpOnly,
		// A broken kith.yaml must not keep one from checking it.
		Annotations: map[string]string{withoutConfig: ""},
	}
	cmd.AddCommand(a.configCheck(), a.configShow(), a.configSchema())
	return cmd
}

func (a *app) configCheck() *cobra.Command {
	return &cobra.Command{
		Use: "check [FILE]", Short: "check kith.yaml as a start would", Args: atMost(1),
		Example: "  kith config check\n  kith config check ./kith.yaml",
		RunE: func(_ *cobra.Command, args []string) error {
			name := a.paths.Config
			if len(args) == 1 {
				name = args[0]
			}
			file, err := config.Load(name)
			if err == nil {
				_, err = decisionLog(file.Agent.DecisionLog)
			}
			if fault.Is(err, fault.NotFound) && len(args) == 0 {
				fmt.Fprintf(a.stdout, "%s is not there: every key has its default\n", name)
				return nil
			}
			if errors.Is(err, fs.ErrNotExist) {
				return fault.NotFoundf("there is no file %s", name)
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "%s is good\n", name)
			return nil
		},
	}
}

func (a *app) configShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show", Short: "print every key with the value in force, and where things are", Args: atMost(0),
		Example: "  kith config show",
	}
	cmd.RunE = func(*cobra.Command, []string) error {
		file, err := a.loadConfig()
		if err != nil {
			return err
		}
		paths := a.paths.With(file)
		fmt.Fprintf(a.stdout, "# %s", paths.Config)
		if _, err := os.Stat(paths.Config); err != nil {
			fmt.Fprint(a.stdout, " (not there: these are the defaults)")
		}
		fmt.Fprintf(a.stdout, "\n# state  %s\n# agent  %s\n# admin  %s\n", paths.State, paths.AgentSocket, paths.AdminSocket)
		text, err := yaml.Marshal(file)
		if err != nil {
			return err
		}
		_, err = a.stdout.Write(text)
		return err
	}
	return cmd
}

func (a *app) configSchema() *cobra.Command {
	return &cobra.Command{
		Use: "schema [NAME]", Short: "print the JSON Schema of a kind of file, for editors", Args: atMost(1), ValidArgs: config.Schemas(),
		Long: `Print the JSON Schema (draft 2020-12) of a kind of file; without a name, list them. An
editor that knows it completes keys, shows what each is and marks what would be
refused. Where an editor uses the YAML language server, the first line of a file says so:

  # yaml-language-server: $schema=state.schema.json`,
		Example: "  kith config schema\n  kith config schema state > state.schema.json",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				fmt.Fprint(a.stdout, `state      nodes, identities, providers, teams, services, rules, federation: kith apply -f
tests      expectations of rules: kith rules test
kith       kith.yaml, the configuration of server, agent and proxy
inventory  what names are here: kith import --inventory
`)
				return nil
			}
			text, err := config.Schema(args[0])
			if err != nil {
				return err
			}
			_, err = a.stdout.Write(text)
			return err
		},
	}
}
