// Begins: theme, addresses, news, page.
import { render } from 'preact';
import { App } from './app';
import { startBase } from './base';
import { startKeys } from './keys';
import { start } from './live';
import { startMoment } from './moment';
import { startRouter } from './router';
import { recall } from './session';
import { find } from './tabs';
import { startTheme } from './theme';

startBase();
startTheme();
startRouter((path) => find(path) !== null);
startMoment();
startKeys();
start();
void recall();
const root = document.getElementById('app');
if (root) render(<App />, root);
