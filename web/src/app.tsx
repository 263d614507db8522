// The frame around every tab: who answers and how fresh it is, the way to the other tabs, and what is asked of the reader.
import { Component, type ComponentChildren, type ComponentType } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { about, count, shortId } from './format';
import { helpOpen, paletteOpen, signInOpen } from './keys';
import { heardAt, line, log, now, refresh, status } from './live';
import { moment } from './moment';
import { go, path, query } from './router';
import { holder, overheard, signOut } from './session';
import { find, tabs, type Place, type TabProps } from './tabs';
import { nextTheme, theme } from './theme';
import { Dialogs } from './ui/dialog';
import { Help } from './ui/help';
import { Icon } from './ui/icon';
import { Palette } from './ui/palette';
import { Failure, Loading } from './ui/parts';
import { SignIn } from './ui/signin';
import { Badge } from './ui/state';
import { PastBanner, TimeBar } from './ui/timebar';

/** Tabs that a wall shows in turn, as far as they are there. */
const ROTATED = ['overview', 'fleet', 'topology', 'events'];

/** Keeps one tab's mistake from taking the page with it. */
class Guard extends Component<{ children: ComponentChildren }, { error: unknown }> {
  override state = { error: null as unknown };
  static override getDerivedStateFromError(error: unknown) {
    return { error };
  }
  override render() {
    return this.state.error === null ? this.props.children : <Failure error={this.state.error} />;
  }
}

const loaded = new Map<string, ComponentType<TabProps>>();

function Body({ place }: { place: Place }) {
  const [, drawn] = useState(0);
  const [error, setError] = useState<unknown>(null);
  const { tab, argument } = place;
  useEffect(() => {
    if (loaded.has(tab.id)) return;
    let here = true;
    tab.load().then(
      (module) => {
        loaded.set(tab.id, module.default);
        if (here) drawn((times) => times + 1);
      },
      (why: unknown) => here && setError(why),
    );
    return () => {
      here = false;
    };
  }, [tab]);
  const Tab = loaded.get(tab.id);
  if (Tab) return <Guard key={tab.id}><Tab argument={argument} /></Guard>;
  return error ? <Failure error={error} /> : <Loading />;
}

function Nav({ place }: { place: Place | null }) {
  useEffect(() => {
    // On a narrow screen the tabs are a strip that is wider than it.
    document.querySelector('.nav [aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'center' });
  }, [place?.of]);
  return (
    <nav class="nav" aria-label="Tabs">
      <ul>
        {tabs.map((tab) => (
          <li key={tab.id}>
            <a href={tab.path} aria-current={place?.of === tab.id ? 'page' : undefined} title={`${tab.title} (${tab.key})`}>
              <Icon name={tab.icon} />
              <span>{tab.title}</span>
              <kbd aria-hidden="true">{tab.key}</kbd>
            </a>
          </li>
        ))}
      </ul>
    </nav>
  );
}

/** How news come, which node answers, and how old what is shown is. */
function Connection() {
  const shown = status.value;
  const applied = log.value?.applied;
  void now.value;
  const silentMs = heardAt.value === 0 ? null : performance.now() - heardAt.value;
  const [word, tone] = (
    { connecting: ['connecting', 'idle'], stream: ['live', 'good'], poll: ['live', 'good'], lost: ['no answer', 'bad'] } as const
  )[line.value];
  const past = moment.value !== null;
  const how = past ? 'A moment of the past' : { connecting: 'Asking for the first time', stream: 'News arrive as they happen', poll: 'Asks every 2 s', lost: 'Goes on asking' }[line.value];
  const age = (log.value?.age_ms ?? 0) + (silentMs ?? 0);
  return (
    <div class="connection" title={`${how}. Log index ${applied ?? '–'}, ${about(age)} old.`}>
      <span class={`lamp ${past && line.value !== 'lost' ? '' : tone}`} aria-hidden="true" />
      <span>
        {past && line.value !== 'lost' ? 'past' : word}
        <span class="dim wide">
          {shown ? <> · {shown.self.name}</> : null}
          {applied !== undefined ? <> · #{count(applied)}</> : null}
          {age > 3_000 ? <> · {about(age)} old</> : null}
        </span>
      </span>
    </div>
  );
}

function Top() {
  const shown = status.value;
  const who = holder.value;
  const themes = { auto: 'as the system', light: 'light', dark: 'dark' };
  return (
    <header class="top">
      <a class="brand" href="/overview">
        <img src="/icon.svg" alt="" width="28" height="28" />
        <span>hive</span>
        {shown?.hive_id ? <span class="dim mono wide" title={shown.hive_id}>{shortId(shown.hive_id)}</span> : null}
      </a>
      <Connection />
      <div class="top-right">
        <button type="button" class="search" onClick={() => (paletteOpen.value = true)}>
          <Icon name="search" size={16} />
          <span class="wide">Find anything</span>
          <kbd class="wide">Ctrl K</kbd>
          <span class="sr narrow-only">Find anything</span>
        </button>
        <button type="button" class="plain" onClick={refresh} aria-label="Ask anew (R)" title="Ask anew (R)"><Icon name="refresh" /></button>
        <button type="button" class="plain" onClick={nextTheme} aria-label={`Colours: ${themes[theme.value]}`} title={`Colours: ${themes[theme.value]}`}>
          <Icon name={theme.value === 'auto' ? 'auto' : theme.value === 'dark' ? 'moon' : 'sun'} />
        </button>
        <button type="button" class="plain" onClick={() => (helpOpen.value = true)} aria-label="Keys and help (?)" title="Keys and help (?)"><Icon name="help" /></button>
        {who ? (
          <button type="button" class="button small" onClick={() => void signOut()} title={`Signed in as ${who.name}, scope ${who.scope}. Sign out`}>
            <Icon name="out" size={15} /><span class="wide">{who.name}</span><span class="sr">, sign out</span>
          </button>
        ) : (
          <button type="button" class="button small" onClick={() => (signInOpen.value = true)}><Icon name="key" size={15} /> Sign in</button>
        )}
      </div>
    </header>
  );
}

/** What is wrong with the picture itself: no answer, no coordinator, old. */
function Banner() {
  const shown = status.value;
  if (line.value === 'lost') {
    return (
      <div class="banner bad" role="alert">
        <b>{shown ? `${shown.self.name} does not answer.` : 'This node does not answer.'}</b>{' '}
        What you see is {heardAt.value ? `${about(performance.now() - heardAt.value)} old` : 'not there yet'}; the page stays and goes on asking. Any other node of the hive shows the same.
      </div>
    );
  }
  // What is wrong with the hive of then stands in its own words.
  if (!shown || moment.value !== null) return null;
  if (shown.hive_id === null) {
    return <div class="banner warn" role="alert"><b>{shown.self.name} is in no hive yet:</b> it is {shown.self.state}.</div>;
  }
  if (!shown.quorum || shown.coordinator === null) {
    return (
      <div class="banner bad" role="alert">
        <b>{shown.coordinator === null ? 'The coordinator is gone.' : 'There is no quorum.'}</b>{' '}
        This page stays: {shown.self.name} shows what it knew {about(log.value?.age_ms ?? 0)} ago, at index {count(log.value?.applied ?? 0)}. Nothing can be changed until a majority of voters is back.
      </div>
    );
  }
  if (overheard && holder.value) {
    return (
      <div class="banner warn" role="alert">
        <b>This page came without TLS:</b> whoever listens between this browser and {shown.self.name} can act as you. Its operator has switched TLS off (<code>tls</code>).
      </div>
    );
  }
  return null;
}

export function App() {
  const place = find(path.value);
  const kiosk = query.value.get('kiosk') === '1';
  const title = place ? place.tab.title : 'Nothing here';
  const shown = status.value;
  const rotateS = kiosk ? Number(query.value.get('rotate') ?? 0) : 0;
  useEffect(() => {
    if (!(rotateS >= 5)) return;
    const timer = setInterval(() => {
      const shows = tabs.filter((tab) => ROTATED.includes(tab.id));
      const next = shows[(shows.findIndex((tab) => tab.id === find(path.value)?.tab.id) + 1) % shows.length];
      if (next) go(`${next.path}?kiosk=1&rotate=${rotateS}`);
    }, rotateS * 1_000);
    return () => clearInterval(timer);
  }, [rotateS]);
  useEffect(() => {
    const about = place?.argument ? `${place.tab.id === 'job' ? shortId(place.argument) : place.argument} · ${title}` : title;
    document.title = `${about} · ${shown?.hive_id ? `hive ${shortId(shown.hive_id)}` : 'hive'}`;
  }, [title, place?.argument, shown?.hive_id]);
  return (
    <div class={`frame${kiosk ? ' kiosk' : ''}${moment.value === null ? '' : ' in-past'}`}>
      {kiosk ? null : <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.getElementById('main')?.focus(); }}>Skip to content</a>}
      {kiosk ? null : <Top />}
      {kiosk ? null : <Nav place={place} />}
      <main id="main" class="main" tabIndex={-1}>
        <h1 class="sr">{title}</h1>
        <Banner />
        <PastBanner />
        {place ? <Body place={place} /> : <p class="empty">There is no page at this address. <a href="/overview">Overview</a></p>}
        {kiosk ? <p class="kiosk-foot"><Connection /> <Badge tone="idle">{shown?.self.name ?? 'hive'}</Badge></p> : null}
      </main>
      {kiosk ? null : <TimeBar />}
      <Dialogs />
      {helpOpen.value ? <Help /> : null}
      {paletteOpen.value ? <Palette /> : null}
      {signInOpen.value ? <SignIn /> : null}
    </div>
  );
}
