package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"mpack/oci"
)

func loginCommand() *cli.Command {
	return &cli.Command{
		Name:      "login",
		Usage:     "check a user name and password against a registry and keep them",
		ArgsUsage: "REGISTRY",
		Description: `Kept where docker, oras and crane look: in the credential helper that Docker's
config names, else in the config itself.

Examples:
  mpack login registry.example.com
  echo "$TOKEN" | mpack login registry.example.com -u ci --password-stdin`,
		Flags:  registryFlags(),
		Action: login,
	}
}

func login(c *cli.Context) error {
	if c.Args().Len() != 1 {
		return usagef("want one REGISTRY; mpack login --help shows how")
	}
	host := c.Args().First()
	o, err := clientOptions(c)
	if err != nil {
		return err
	}
	client, err := oci.NewClient(o)
	if err != nil {
		return err
	}
	user, password := o.Username, o.Password
	if password == "" {
		if !term.IsTerminal(int(os.Stdin.Fd())) {
			return usagef("no terminal to ask for the password on; use --password-stdin")
		}
		if user == "" {
			fmt.Fprint(c.App.ErrWriter, "Username: ")
			line, err := bufio.NewReader(c.App.Reader).ReadString('\n')
			if err != nil {
				return err
			}
			user = strings.TrimSpace(line)
		}
		fmt.Fprint(c.App.ErrWriter, "Password: ")
		b, err := term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(c.App.ErrWriter)
		if err != nil {
			return err
		}
		password = string(b)
	}
	if err := client.Login(c.Context, host, user, password); err != nil {
		return fmt.Errorf("login %s: %w", host, err)
	}
	fmt.Fprintln(c.App.ErrWriter, "logged in to "+host)
	return nil
}

func logoutCommand() *cli.Command {
	return &cli.Command{
		Name:      "logout",
		Usage:     "forget a registry's user name and password",
		ArgsUsage: "REGISTRY",
		Description: `Examples:
  mpack logout registry.example.com`,
		Flags: registryFlags(),
		Action: func(c *cli.Context) error {
			if c.Args().Len() != 1 {
				return usagef("want one REGISTRY; mpack logout --help shows how")
			}
			client, err := newClient(c)
			if err != nil {
				return err
			}
			if err := client.Logout(c.Context, c.Args().First()); err != nil {
				return fmt.Errorf("logout %s: %w", c.Args().First(), err)
			}
			fmt.Fprintln(c.App.ErrWriter, "logged out of "+c.Args().First())
			return nil
		},
	}
}
